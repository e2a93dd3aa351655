#!/bin/sh
# Instructions per hit of the unified flow table, for several numbers of layers and rules (budget: equal counts).
#
# Needs valgrind. Counts inside the hits of crates/core/benches/hit_cost.rs alone; the copying of the frame into
# its buffer, about 100 instructions, is part of every figure. Exits with 1 when two figures of the same policy
# (10 layers and more: NAT and VXLAN) differ. LAMINA_HIT_FLOWS and LAMINA_HIT_BATCHES go through.
set -eu
cd "$(dirname "$0")/.."
binary=$(cargo bench -p lamina-core --bench hit_cost --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*hit_cost[^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "hit_cost does not build" >&2; exit 2; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT
packets=$((${LAMINA_HIT_BATCHES:-100} * 32))
last=
status=0
for setting in "1 1000" "10 10" "10 1000" "10 50000" "20 1000"; do
    layers=${setting% *}
    rules=${setting#* }
    collected=$(LAMINA_HIT_LAYERS=$layers LAMINA_HIT_RULES=$rules valgrind --tool=callgrind \
        --callgrind-out-file="$out" --toggle-collect='hit_cost::hits' "$binary" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p')
    each=$((collected / packets))
    echo "$layers layers, $rules rules: $each instructions per hit"
    if [ "$layers" -gt 1 ]; then
        if [ -n "$last" ] && [ "$each" -ne "$last" ]; then status=1; fi
        last=$each
    fi
done
[ "$status" -eq 0 ] || echo "the counts differ" >&2
exit "$status"
