module github.com/orchestrator/orchestrator/test/scopereaders

go 1.26

// What Scope itself replaces.
replace github.com/fluent/fluent-logger-golang => github.com/fluent/fluent-logger-golang v1.2.1

require (
	github.com/gorilla/mux v1.6.2
	github.com/gorilla/websocket v0.0.0-20160221213430-5c91b59efa23
	github.com/ugorji/go v0.0.0-20170918222552-54210f4e076c
	github.com/weaveworks/scope v1.13.2
)

require (
	camlistore.org v0.0.0-20171230002226-a5a65f0d8b22 // indirect
	github.com/Azure/go-ansiterm v0.0.0-20170929234023-d6e3b3328b78 // indirect
	github.com/Microsoft/go-winio v0.4.11 // indirect
	github.com/NYTimes/gziphandler v1.0.2-0.20180227021810-5032c8878b9d // indirect
	github.com/Nvveen/Gotty v0.0.0-20120604004816-cd527374f1e5 // indirect
	github.com/armon/go-metrics v0.0.0-20190430140413-ec5e00d3c878 // indirect
	github.com/armon/go-radix v0.0.0-20160115234725-4239b77079c7 // indirect
	github.com/aws/aws-sdk-go v1.15.78 // indirect
	github.com/bluele/gcache v0.0.0-20150827032927-fb6c0b0e1ff0 // indirect
	github.com/c9s/goprocinfo v0.0.0-20151025191153-19cb9f127a9c // indirect
	github.com/containerd/continuity v0.0.0-20180814194400-c7c5070e6f6e // indirect
	github.com/coocood/freecache v0.0.0-20150903053832-a27035d5537f // indirect
	github.com/cpuguy83/go-md2man v1.0.4 // indirect
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/docker/docker v1.4.2-0.20180827131323-0c5f8d2b9b23 // indirect
	github.com/docker/go-connections v0.4.0 // indirect
	github.com/docker/go-units v0.3.3 // indirect
	github.com/docker/libnetwork v0.8.0-dev.2.0.20180608203834-19279f049241 // indirect
	github.com/dustin/go-humanize v0.0.0-20160923163517-bd88f87ad3a4 // indirect
	github.com/evanphx/json-patch v0.0.0-20170719203123-944e07253867 // indirect
	github.com/fatih/camelcase v1.0.0 // indirect
	github.com/fsouza/go-dockerclient v1.3.0 // indirect
	github.com/gogo/protobuf v1.3.0 // indirect
	github.com/golang/protobuf v1.3.2 // indirect
	github.com/google/btree v0.0.0-20180124185431-e89373fe6b4a // indirect
	github.com/google/gofuzz v1.0.0 // indirect
	github.com/google/gopacket v1.1.17 // indirect
	github.com/googleapis/gnostic v0.1.1-0.20180110061420-49e5b5b1abae // indirect
	github.com/gorilla/context v1.1.1 // indirect
	github.com/gregjones/httpcache v0.0.0-20171119193500-2bcd89a1743f // indirect
	github.com/hashicorp/go-immutable-radix v1.0.0 // indirect
	github.com/hashicorp/golang-lru v0.5.0 // indirect
	github.com/imdario/mergo v0.3.5 // indirect
	github.com/inconshreveable/mousetrap v1.0.0 // indirect
	github.com/iovisor/gobpf v0.0.0-20180826141936-4ece6c56f936 // indirect
	github.com/jmespath/go-jmespath v0.0.0-20160202185014-0b12d6b521d8 // indirect
	github.com/json-iterator/go v1.1.9 // indirect
	github.com/k-sone/critbitgo v1.2.0 // indirect
	github.com/konsorten/go-windows-terminal-sequences v1.0.1 // indirect
	github.com/kr/pty v1.1.1 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.1 // indirect
	github.com/opencontainers/go-digest v1.0.0-rc1 // indirect
	github.com/opencontainers/image-spec v1.0.1 // indirect
	github.com/opencontainers/runc v1.0.0-rc5 // indirect
	github.com/openebs/k8s-snapshot-client v0.0.0-20180831100134-a6506305fb16 // indirect
	github.com/opentracing/opentracing-go v1.1.0 // indirect
	github.com/pborman/uuid v0.0.0-20150824212802-cccd189d45f7 // indirect
	github.com/peterbourgon/diskv v2.0.2-0.20171120014656-2973218375c3+incompatible // indirect
	github.com/pkg/errors v0.8.1 // indirect
	github.com/russross/blackfriday v0.0.0-20151020174500-a18a46c9b943 // indirect
	github.com/shurcooL/sanitized_anchor_name v0.0.0-20150822220530-244f5ac324cb // indirect
	github.com/sirupsen/logrus v1.4.2 // indirect
	github.com/spaolacci/murmur3 v0.0.0-20150829172844-0d12bf811670 // indirect
	github.com/spf13/cobra v0.0.0-20151013225139-8b2293c74173 // indirect
	github.com/spf13/pflag v1.0.1-0.20171106142849-4c012f6dcd95 // indirect
	github.com/typetypetype/conntrack v1.0.1-0.20181112022515-9d9dd841d4eb // indirect
	github.com/vishvananda/netlink v1.0.1-0.20190913165827-36d367fd76f9 // indirect
	github.com/vishvananda/netns v0.0.0-20180720170159-13995c7128cc // indirect
	github.com/weaveworks/common v0.0.0-20200310113808-2708ba4e60a4 // indirect
	github.com/weaveworks/ps v0.0.0-20160725183535-70d17b2d6f76 // indirect
	github.com/weaveworks/tcptracer-bpf v0.0.0-20200114145059-84a08fc667c0 // indirect
	github.com/willdonnelly/passwd v0.0.0-20141013001024-7935dab3074c // indirect
	golang.org/x/crypto v0.0.0-20190308221718-c2843e01d9a2 // indirect
	golang.org/x/net v0.0.0-20191004110552-13f9640d40b9 // indirect
	golang.org/x/oauth2 v0.0.0-20180821212333-d2e6202438be // indirect
	golang.org/x/sys v0.0.0-20200122134326-e047566fdf82 // indirect
	golang.org/x/text v0.3.1-0.20171227012246-e19ae1496984 // indirect
	golang.org/x/time v0.0.0-20180412165947-fbb02b2291d2 // indirect
	google.golang.org/appengine v1.4.0 // indirect
	gopkg.in/inf.v0 v0.9.0 // indirect
	gopkg.in/yaml.v2 v2.2.5 // indirect
	k8s.io/api v0.0.0-20181204000039-89a74a8d264d // indirect
	k8s.io/apimachinery v0.0.0-20181127025237-2b1284ed4c93 // indirect
	k8s.io/cli-runtime v0.0.0-20181204004549-a04da5c88c07 // indirect
	k8s.io/client-go v10.0.0+incompatible // indirect
	k8s.io/klog v0.1.0 // indirect
	k8s.io/kubernetes v1.13.0 // indirect
	sigs.k8s.io/yaml v1.1.0 // indirect
)

// camlistore.org has moved and can be had no more. Scope takes one small package of it, a cache.
replace camlistore.org => ./lru
