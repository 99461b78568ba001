package resources

import "testing"

// What a launch costs the master: reading a task's resources, taking them from the offer, and giving them back.

func BenchmarkFromProto(b *testing.B) {
	list := MustParse("cpus:1;mem:128;disk:100;ports:[31000-31001]").Proto()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromProto(list); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProto(b *testing.B) {
	r := MustParse("cpus:1;mem:128;disk:100;ports:[31000-31001]")
	b.ReportAllocs()
	for b.Loop() {
		if len(r.Proto()) != 4 {
			b.Fatal("entries are missing")
		}
	}
}

func BenchmarkSubtractAndAdd(b *testing.B) {
	offer := MustParse("cpus:24;mem:4096;disk:4096;ports:[31000-32000]").Allocate("web")
	task := MustParse("cpus:1;mem:128;disk:100;ports:[31000-31001]").Allocate("web")
	b.ReportAllocs()
	for b.Loop() {
		left, ok := offer.Subtract(task)
		if !ok || !left.Add(task).Equal(offer) {
			b.Fatal("the sum does not come out")
		}
	}
}

func BenchmarkContains(b *testing.B) {
	offer := MustParse("cpus:24;mem:4096;disk:4096;ports:[31000-32000]").Allocate("web")
	task := MustParse("cpus:1;mem:128;disk:100;ports:[31000-31001]").Allocate("web")
	b.ReportAllocs()
	for b.Loop() {
		if !offer.Contains(task) {
			b.Fatal("not contained")
		}
	}
}
