#!/bin/bash
# Prints the figures that the project's goals name: JSON lines on standard output (and in bench.jsonl), tables on standard error.
#   test/bench.sh            everything; some 15 minutes on 2 cores
#   BENCH_COUNT=1 BENCH_TIME=1x test/bench.sh      the same, each benchmark of the first tier once: whether it runs at all
#   test/bench.sh --rows 5,7 --duration 10s    what `orchestrator bench --help` explains
# Machines that are shared are noisy: compare alternating runs, and ratios.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
out=${BENCH_OUTPUT:-bench.jsonl}
export BENCH_COMMIT
BENCH_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

$go build -trimpath -o bin/orchestrator ./cmd/orchestrator

# The tier of single packages, with Mesos' names and parameters where Mesos has them (rows 1 to 3), and codecs.
micro() {
	$go test -run '^$' -bench "$2" -benchmem -count "${BENCH_COUNT:-5}" -benchtime "${BENCH_TIME:-1s}" "$1" | tee /dev/stderr | awk -v commit="$BENCH_COMMIT" '
		/^Benchmark/ {
			printf "{\"name\":\"%s\",\"iterations\":%s,\"commit\":\"%s\",\"values\":{", $1, $2, commit
			for (i = 3; i < NF; i += 2) printf "%s\"%s\":%s", (i > 3 ? "," : ""), $(i + 1), $i
			print "}}"
		}' | tee -a "$out"
}
if [ $# -eq 0 ]; then
	micro ./internal/master/allocator .
	micro ./internal/wire/mesosjson .
	micro ./internal/wire 'Stream/|IdleStream'
	micro ./internal/wire/link .
	MONITOR_BENCH_HOSTS=1000 BENCH_COUNT=1 micro ./test/monitoring Monitor
	# What a person sees, in a real browser; needs Node and Chromium (test/deps.sh).
	if command -v node >/dev/null && [ -e /usr/bin/chromium ]; then
		CONSOLE_BENCH_HOSTS=1000 $go test -run '^$' -bench Console -benchtime 1x -timeout 20m ./test/console | tee /dev/stderr |
			sed -n "s/^{\(.*\)}$/{\1,\"commit\":\"$BENCH_COMMIT\"}/p" | tee -a "$out"
	fi
fi

./bin/orchestrator bench --output "$out.wire" "$@"
tee -a "$out" < "$out.wire"
rm -f "$out.wire"
