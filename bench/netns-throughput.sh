#!/usr/bin/env bash
# TCP between two network namespaces on this host, joined in turn by the kernel bridge, by a bare forwarder over
# af_packet (what the sockets can carry), by Lamina over af_packet, and by userspace Open vSwitch. The ways are
# measured interleaved, round after round, since the level moves with what else the machine does; only the ratios
# of one run count.
#
#   bench/netns-throughput.sh            needs root, iperf3, iproute2; userspace Open vSwitch where installed
#
# Environment: ROUNDS (default 5), SECS per measurement (default 3), WAYS (default "bridge bare lamina ovs"),
# STREAMS (default 1), BIN (default target/release, or $CARGO_TARGET_DIR/release), CPUS (taskset list for the switch).
# Output: one line per measurement, then medians, ratios to the bridge and round-trip times.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
ROUNDS=${ROUNDS:-5}; SECS=${SECS:-3}; WAYS=${WAYS:-bridge bare lamina ovs}; STREAMS=${STREAMS:-1}
BIN=${BIN:-${CARGO_TARGET_DIR:-$here/target}/release}
id=lmn$$; A=$id-a; B=$id-b; S=$id-s; dir=$(mktemp -d)
switch_pid=

stop_switch() { if [ -n "$switch_pid" ]; then kill "$switch_pid" 2>/dev/null || true; wait "$switch_pid" 2>/dev/null || true; switch_pid=; fi; }
stop_file() { local i; [ -s "$1" ] || return 0; kill "$(cat "$1")" 2>/dev/null || true
  for i in $(seq 50); do kill -0 "$(cat "$1" 2>/dev/null)" 2>/dev/null || break; sleep 0.1; done; rm -f "$1"; }
stop_ovs() { stop_file "$dir/ovs-vswitchd.pid"; stop_file "$dir/ovsdb-server.pid"; rm -f "$dir/conf.db"; }
down() { stop_switch; stop_ovs; local n; for n in $A $B $S; do ip netns del "$n" 2>/dev/null || true; done; }
trap 'down; rm -rf "$dir"' EXIT

cables() { # two veth pairs; the switch's ends are sa and sb in $S
  local n; for n in $A $B $S; do ip netns add "$n"; ip -n "$n" link set lo up; done
  ip link add e0 netns "$A" type veth peer name sa netns "$S"
  ip link add e0 netns "$B" type veth peer name sb netns "$S"
  for n in sa sb; do ip netns exec "$S" sysctl -qw net.ipv6.conf.$n.disable_ipv6=1; ip -n "$S" link set $n up; done
  end "$A" 1; end "$B" 2; }
end() { ip netns exec "$1" sysctl -qw net.ipv6.conf.e0.disable_ipv6=1
  ip -n "$1" link set e0 address 02:00:00:00:00:0"$2"; ip -n "$1" addr add 10.77.0."$2"/24 dev e0; ip -n "$1" link set e0 up; }
in_switch() { ip netns exec "$S" ${CPUS:+taskset -c $CPUS} "$@" > "$dir/switch.log" 2>&1 & switch_pid=$!; }

up_bridge() { ip -n "$S" link add br0 type bridge; ip -n "$S" link set br0 up; local n; for n in sa sb; do ip -n "$S" link set $n master br0; done; }
up_bare() { in_switch "$BIN/examples/bare_forward" sa sb; }
up_lamina() { in_switch "$BIN/examples/forward" sa=02:00:00:00:00:01 sb=02:00:00:00:00:02; }
up_ovs() {
  export OVS_RUNDIR=$dir OVS_LOGDIR=$dir OVS_DBDIR=$dir OVS_SYSCONFDIR=$dir; local db=unix:$dir/db.sock
  ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema
  # Not detached, so that they keep this script's scheduling group like everything else here.
  ovsdb-server "$dir/conf.db" --remote=p"$db" --pidfile="$dir/ovsdb-server.pid" > /dev/null 2>&1 &
  local i; for i in $(seq 50); do ovs-vsctl --db="$db" --timeout=1 --no-wait init 2> /dev/null && break; sleep 0.1; done
  ip netns exec "$S" ${CPUS:+taskset -c $CPUS} ovs-vswitchd "$db" --pidfile="$dir/ovs-vswitchd.pid" > /dev/null 2>&1 &
  sleep 0.3; ovs-vsctl --db="$db" --timeout=20 add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 sa -- add-port br0 sb
  # Its userspace datapath does no offloads: the namespaces must finish their own frames.
  local n; for n in $A $B; do ip netns exec "$n" ethtool -K e0 tso off gso off tx off > /dev/null; done; }

measure() { # way -> "gbit ping_us"
  local server gbit=0 rtt
  ip netns exec "$B" iperf3 -s -1 > /dev/null 2>&1 & server=$!
  local i; for i in $(seq 40); do ip netns exec "$A" ping -c 1 -W 1 -q 10.77.0.2 > /dev/null 2>&1 && break; sleep 0.1; done
  gbit=$(ip netns exec "$A" timeout $((SECS + 10)) iperf3 -c 10.77.0.2 -t "$SECS" -P "$STREAMS" -J 2>/dev/null |
    awk '/"sum_received"/{s=1} s && /"bits_per_second"/{gsub(/[^0-9.e+]/,"",$2); printf "%.2f", $2/1e9; exit}')
  kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true
  rtt=$(ip netns exec "$A" ping -c 100 -i 0.005 -q 10.77.0.2 | awk -F/ '/^rtt/{printf "%.0f", $5*1000}')
  echo "${gbit:-0} ${rtt:-0}"; }

have=
for way in $WAYS; do
  case $way in
    bare) [ -x "$BIN/examples/bare_forward" ] || { echo "skipped $way, because $BIN/examples/bare_forward is not built"; continue; };;
    lamina) [ -x "$BIN/examples/forward" ] || { echo "skipped $way, because $BIN/examples/forward is not built"; continue; };;
    ovs) command -v ovs-vswitchd > /dev/null || { echo "skipped $way, because ovs-vswitchd is not installed"; continue; };;
  esac
  have="$have $way"
done
echo "# $(uname -sr), $(nproc) cores, $(awk -F: '/model name/{print $2; exit}' /proc/cpuinfo), load $(cut -d' ' -f1 /proc/loadavg), $STREAMS stream(s), $SECS s"
for round in $(seq "$ROUNDS"); do for way in $have; do
  down; cables; "up_$way"; sleep 0.3
  line="$way $(measure)"; echo "round $round $line"; echo "$line" >> "$dir/results"
  if [ -n "$switch_pid" ] && ! kill -0 "$switch_pid" 2>/dev/null; then echo "$way ended early:"; cat "$dir/switch.log"; fi
done; done
median() { sort -n | awk '{v[NR]=$1} END{print (NR % 2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
base=$(awk '$1=="bridge"{print $2}' "$dir/results" | median)
for way in $have; do
  awk -v w="$way" '$1==w{print $2}' "$dir/results" | median > "$dir/m"; awk -v w="$way" '$1==w{print $3}' "$dir/results" | median > "$dir/p"
  awk -v w="$way" -v m="$(cat "$dir/m")" -v p="$(cat "$dir/p")" -v b="${base:-0}" 'BEGIN{r = "?"; if (b + 0 != 0) r = sprintf("%.2f", m / b); printf "median %-7s %6.2f Gbit/s, %s of the bridge, ping %s us\n", w, m, r, p}'
done
