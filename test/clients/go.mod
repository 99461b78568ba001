module github.com/orchestrator/orchestrator/test/clients

go 1.26

tool github.com/mesosphere/mesos-dns

require (
	github.com/miekg/dns v1.0.0
	github.com/samuel/go-zookeeper v0.0.0-20190923202752-2cc03de413da
)

require (
	github.com/dgrijalva/jwt-go v2.6.0+incompatible // indirect
	github.com/emicklei/go-restful v1.1.3 // indirect
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/golang/glog v0.0.0-20150731225221-fca8c8854093 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/mesos/mesos-go v0.0.2 // indirect
	github.com/mesosphere/mesos-dns v0.6.0 // indirect
	github.com/stretchr/objx v0.5.3 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	github.com/tv42/zbase32 v0.0.0-20150911225513-03389da7e0bf // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.28.0 // indirect
	golang.org/x/net v0.30.0 // indirect
	golang.org/x/sys v0.26.0 // indirect
)
