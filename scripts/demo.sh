#!/bin/bash
# Two hosts on this machine and a real guest play a bad day and its end: replicate a running VM, lose the site, fail
# over, look, revert, choose an earlier time, revert, choose again, commit; then the lost host comes back, becomes the
# replica with what it has, and gets the VM back without losing anything. What is right is said by the guest's own verifier and by sha256sum, never by Lifeboat. Exit 0 means that every verdict was good.
#
#   make demo                     builds what it needs and runs this
#   DEMO_KEEP=1 make demo         leaves what is up at the end running; says how to look around and how to end it
#   LIFEBOAT_BIN=target/debug/lifeboat scripts/demo.sh     with another binary
#
# Needs no root, no KVM and no network beyond loopback. Everything lives in one temporary directory; what it starts it
# ends, by process id, also on failure and on Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${LIFEBOAT_BIN:-target/release/lifeboat}")
image=target/guest-image
vm=story
uuid=5e1f0b0a-7d0e-4c52-9a3e-6b6f61740001
archive_mib=128
most_bytes=30000000
declare -A pid=() port=()

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '   %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
tools() { python3 scripts/demo/tools.py "$@"; }
now_ms() { date +%s%3N; }
seconds() { printf '%d.%02d s' $(($1 / 1000)) $(($1 % 1000 / 10)); }

# --- ending -----------------------------------------------------------------------------------------------------

# Everything that was started here names a file in the demo's own directory.
end_all() {
    local process processes
    mapfile -t processes < <(tools pids "$work")
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    for process in "${processes[@]}"; do
        for _ in {1..50}; do alive "$process" || break; sleep 0.1; done
        kill -9 "$process" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}

# Whether a process is there and not only waiting to be reaped.
alive() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; }

keep() {
    say "What is up stays up (DEMO_KEEP=1)"
    local host
    for host in alpha beta; do
        [ -n "${pid[$host]-}" ] || continue
        note "$host: $bin --socket $work/$host/sock vm show $vm"
        note "       log $work/$host/daemon.log, consoles and sockets of the guest in $work/$host/run/$uuid"
    done
    note "the replica, plain files for qemu-img: $work/beta/replicas/$uuid (docs/recovery-without-lifeboat.md)"
    note "the guest's console, leave it with Ctrl-]: $bin --socket $work/beta/sock vm console $vm"
    note "end it all: kill -9 \$(scripts/demo/tools.py pids $work); rm -rf $work"
}

on_exit() {
    local code=$? host
    trap '' INT TERM
    if [ "$code" != 0 ] && [ "$code" -lt 128 ]; then
        for host in alpha beta; do
            [ -s "$work/$host/daemon.log" ] || continue
            printf '\nlast lines of the log of %s:\n' "$host" >&2
            tail -n 12 "$work/$host/daemon.log" >&2
        done
    fi
    if [ "${DEMO_KEEP:-0}" = 1 ]; then
        keep
    else
        end_all
        rm -rf "$work"
    fi
    case $code in
        0) ;;
        130 | 143) printf '\ndemo: interrupted\n' >&2 ;;
        *) printf '\ndemo: FAILED (exit %d)\n' "$code" >&2 ;;
    esac
    exit "$code"
}

# --- hosts and guest --------------------------------------------------------------------------------------------

# on HOST COMMAND...: runs lifeboat there, shown as it would be typed on that host.
on() {
    local host=$1
    shift
    printf '%s%s$ lifeboat %s%s\n' "$bold" "$host" "$*" "$plain"
    "$bin" --socket "$work/$host/sock" "$@"
}

# The same without showing it, for what the demo itself wants to know.
json() {
    local host=$1 path=$2
    shift 2
    "$bin" --socket "$work/$host/sock" --output json "$@" | tools get "$path"
}

replication() { json "$1" "replication.$2" vm show $vm; }

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
    local limit=$(($1 * 1000 + $(now_ms))) what=$2
    shift 2
    until "$@" 2>/dev/null; do
        [ "$(now_ms)" -lt "$limit" ] || fail "waited in vain until $what"
        sleep 0.1
    done
}

is() { [ "$(replication "$1" "$2")" = "$3" ]; }
at_least() { [ "$(replication "$1" "$2")" -ge "$3" ]; }

make_host() {
    local host=$1 dir=$work/$1
    mkdir -p "$dir"/{vms,tls,disks}
    "$bin" cert issue --ca "$work/ca" --host "$host.test" --host 127.0.0.1 --out "$dir/tls" >/dev/null
    cat >"$dir/lifeboat.toml" <<T
host = "$host.test"
listen = "127.0.0.1:${port[$host]}"
socket = "$dir/sock"
state_dir = "$dir/state"
run_dir = "$dir/run"
spool_dir = "$dir/spool"
vm_dir = "$dir/vms"
reserve_mib = 64

[tls]
ca = "$dir/tls/ca.crt"
cert = "$dir/tls/host.crt"
key = "$dir/tls/host.key"

[qemu]
accel = "tcg"
T
}

make_vm() {
    local dir=$work/alpha
    cp --sparse=always $image/sys.qcow2 $image/data.raw "$dir/disks/"
    # Something to copy: bytes that neither compress nor repeat.
    head -c ${archive_mib}M /dev/urandom >"$dir/disks/archive.raw"
    cat >"$dir/vms/$vm.toml" <<T
name = "$vm"
uuid = "$uuid"
memory_mib = 192
cpus = 1
machine = "pc"
cpu = "qemu64"

[[disk]]
id = "sys"
path = "$dir/disks/sys.qcow2"
format = "qcow2"

[[disk]]
id = "data"
path = "$dir/disks/data.raw"
format = "raw"

[[disk]]
id = "archive"
path = "$dir/disks/archive.raw"
format = "raw"

[[nic]]
mac = "52:54:00:4c:42:01"
backend = { type = "user" }
T
}

answers() { alive "${pid[$1]}" && "$bin" --socket "$work/$1/sock" server show >/dev/null 2>&1; }

serve() {
    local host=$1
    printf '%s%s$ lifeboat serve --config lifeboat.toml &%s\n' "$bold" "$host" "$plain"
    "$bin" serve --config "$work/$host/lifeboat.toml" </dev/null >>"$work/$host/daemon.log" 2>&1 &
    pid[$host]=$!
    disown $!
    await 30 "$host answers" answers "$host"
}

console() { echo "$work/$1/run/$uuid/console.log"; }
boots() { grep -c '^LIFEBOAT ready' "$(console "$1")" 2>/dev/null || true; }
booted() { [ "$(boots "$1")" -gt "$2" ]; }
guest() { tools guest "$work/$1/run/$uuid/agent.sock" "$2"; }

area='/dev/lifeboat/data-area'
pair="/dev/lifeboat/sys-area $area --offset 0,67108864 --slots 1024"

start_writers() {
    local writer
    for writer in "append /data/records.log --rate 60" "scatter $area --slots 4096 --rate 60 --direct" \
        "pair $pair --rate 40 --direct"; do
        guest "$1" "(lifeboat-workload $writer --ack-ms 100 >/dev/ttyS0 2>&1 </dev/null &)"
    done
}

# field NAME LINE: a number out of a verdict.
field() { sed -n "s/.* $1=\\(-\\?[0-9]*\\).*/\\1/p" <<<"$2"; }

# Asks the verifier in the guest on HOST about all three streams; sets `high` and `wall` (newest appended record: number
# and time) and `pairs` (newest pair).
verify() {
    local host=$1 check line
    for check in "verify-append /data/records.log" "verify-scatter $area --slots 4096" "verify-pair $pair"; do
        line=$(guest "$host" "lifeboat-workload $check --expect-some" || true)
        note "$line"
        [[ $line == "RESULT OK "* ]] || fail "the verifier in the guest is not content (${check%% *})"
        case $check in
            verify-append*) high=$(field high "$line") wall=$(field wall_ms "$line") ;;
            verify-pair*) pairs=$(field high "$line") ;;
        esac
    done
    checks=$((checks + 3))
}

# Waits for boot number $1 + 1 on a host (beta) and shows what the guest itself printed about its data while booting.
await_boot() {
    local line host=${2:-beta}
    await 120 "the guest has booted on $host" booted "$host" "$1"
    line=$(grep '^LIFEBOAT verify-append' "$(console "$host")" | tail -n 1 | tr -d '\r')
    note "the guest's console: $line"
    [[ $line == *"RESULT OK"* ]] || fail "the guest found its records damaged while booting"
    await 60 "the guest's agent answers" guest "$host" true
}

digests() { (cd "$work/beta/replicas/$uuid" && xargs -d '\n' sha256sum <"$work/sealed"); }

job_ms() {
    local kind=$1 list
    list=$("$bin" --socket "$work/beta/sock" --output json job list)
    python3 -c 'import json, sys
job = next(j for j in json.loads(sys.argv[2]) if j["kind"] == sys.argv[1])
print(job["ended"] - job["started"])' "$kind" "$list"
}

# --- the story --------------------------------------------------------------------------------------------------

[ -x "$bin" ] || fail "$bin is missing; run: make demo"
# With debug information it would have several times the size; [profile.release] in Cargo.toml leaves that out.
bytes=$(stat -Lc %s "$bin")
[ -n "${LIFEBOAT_BIN-}" ] || [ "$bytes" -le $most_bytes ] ||
    fail "$bin has $bytes bytes, what is installed may have $most_bytes; see [profile.release] in Cargo.toml"
[ -s $image/sys.qcow2 ] || fail "the guest image is missing; run: make guest"
work=$(mktemp -d /tmp/lifeboat-demo.XXXXXX)
# Guests' users pass it on the way to what is theirs.
chmod 711 "$work"
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
checks=0
began=$(now_ms)

act_1() {
    say "Two hosts, alpha.test and beta.test, with certificates of an authority of their own ($work)"
    read -r port[alpha] port[beta] < <(tools ports 2)
    printf '%s$ lifeboat cert init ca --name "Demo CA"%s\n' "$bold" "$plain"
    "$bin" cert init "$work/ca" --name "Demo CA"
    make_host alpha
    make_host beta
    make_vm
    serve alpha
    serve beta
    note "beta takes replicas from alpha.test, and from nobody else:"
    on beta server set --replica on
    on beta authorization add alpha.test --location "$work/beta/replicas"
    on alpha test-connection "127.0.0.1:${port[beta]}"

    say "A VM with three disks starts on alpha; three writers in it write numbered records and sync each of them"
    on alpha vm start $vm
    await 120 "the guest has booted on alpha" booted alpha 0
    await 60 "the guest's agent answers" guest alpha true
    start_writers alpha
    on alpha vm list
}

act_2() {
    say "Replication: a cycle each second, a recovery point every 5 seconds, the running VM is copied first"
    on alpha replication enable $vm --to "127.0.0.1:${port[beta]}" --interval 1s --history 6 --point-spacing 5s
    on alpha replication start $vm
    local list
    list=$("$bin" --socket "$work/alpha/sock" --output json job list)
    read -r copy_bytes copy_ms < <(python3 -c 'import json, sys
job = next(j for j in json.loads(sys.argv[1]) if j["total_bytes"])
print(job["done_bytes"], job["ended"] - job["started"])' "$list")
    used=$(du --block-size=1M --total "$work"/alpha/disks/* | tail -n 1 | cut -f 1)
    await 60 "beta is replicating" is beta state Replicating

    say "Cycles flow while the guest writes"
    at_least_cycles 6
    good_time=$(date +%H:%M:%S)
    note "somebody will remember that all was well at $good_time"
    at_least_cycles 14
    on alpha replication status $vm
    on beta points $vm | head -n 12
    cycles=$(replication alpha counters.cycles)
    latency=$(replication alpha counters.last_latency_ms)
}

at_least_cycles() { await 90 "$1 cycles are done" at_least alpha counters.cycles "$1"; }

act_3() {
    say "The site of alpha is lost: its daemon and its QEMU are killed, in the middle of everything"
    local site
    site=$(tools pids "$work/alpha")
    # Asked right before, read afterwards: a moment that is spent on reading is a moment of more data at risk.
    "$bin" --socket "$work/alpha/sock" --output json vm show $vm >"$work/last-words"
    # shellcheck disable=SC2086 -- several numbers
    kill -9 $site
    lost_at=$(now_ms)
    unset 'pid[alpha]'
    lag=$(tools get replication.lag_ms <"$work/last-words")
    await 10 "alpha's processes are gone" gone "$site"
    read -r acked acked_ms < <(tools acked "$(console alpha)" append)
    note "alpha's last words: data at risk $(seconds "$lag")"
    note "the guest had reported record $acked as durable"
    tools sealed "$work/beta/replicas/$uuid" >"$work/sealed"
    digests >"$work/digests"

    say "Failover to the newest data, on beta, which has nobody to ask"
    local newest
    newest=$(replication beta newest_instant)
    risk=$((lost_at - newest))
    on beta failover start $vm
    failover_ms=$(job_ms Failover)
    local from
    from=$(now_ms)
    await_boot 0
    boot_ms=$(($(now_ms) - from))
    verify beta
    found=$high
    lost_ms=$((acked_ms - wall))
    [ "$lost_ms" -gt 0 ] || lost_ms=0
    note "records up to $found of $acked: $((acked > found ? acked - found : 0)) lost, $(seconds $lost_ms) of work; beta's newest data was $(seconds $risk) old"
    # The guest's clock ticks in another process; half a second is its share.
    [ $lost_ms -le $((risk + 500)) ] || fail "more was lost than Lifeboat said"
}

gone() { local p; for p in $1; do ! alive "$p" || return 1; done; }

act_4() {
    say "It was tried, written to, and not liked: revert"
    start_writers beta
    await 30 "the guest has written on beta" wrote_on beta append "$found"
    on beta failover revert $vm || note "(a running VM is not turned off by accident: the exit code was $?)"
    local from
    from=$(now_ms)
    on beta failover revert $vm --force
    revert_ms=$(($(now_ms) - from))
    revert_job_ms=$(job_ms RevertFailover)
    untouched
    note "reverted in $(seconds $revert_ms), VM turned off included"

    say "Another point: $good_time, when all was well"
    local boots
    boots=$(boots beta)
    on beta failover start $vm --at "$good_time"
    at_ms=$(job_ms Failover)
    await_boot "$boots"
    verify beta
    at_found=$high
    [ "$at_found" -lt "$found" ] || fail "an earlier time has as many records as the newest data"
    on beta failover revert $vm --force
    untouched
}

# wrote_on HOST STREAM N: whether the guest there has reported a record above N.
wrote_on() {
    local record
    read -r record _ < <(tools acked "$(console "$1")" "$2") && [ "$record" -gt "$3" ]
}

untouched() {
    digests | cmp -s - "$work/digests" || fail "a recovery point changed"
    checks=$((checks + 1))
    note "$(wc -l <"$work/sealed") files of recovery points: sha256 as before"
}

act_5() {
    say "The newest data was better after all: fail over again, and stay"
    local boots
    boots=$(boots beta)
    on beta failover start $vm
    await_boot "$boots"
    verify beta
    [ "$high" = "$found" ] || fail "the newest point had $found records before and has $high now"
    start_writers beta
    on beta failover commit $vm
    commit_ms=$(job_ms CommitFailover)
    await 120 "the committed disks are merged" is beta failover.stage committed
    await 60 "the VM goes on writing" wrote_on beta pair "$((pairs + 40))"
    guest beta 'killall lifeboat-workload; sync'
    verify beta
    on beta replication status $vm | head -n 6
    on beta events $vm --limit 4
}

# No synchronization is under way, and both sides replicate.
in_step() { [ -z "$(replication "$1" sync)" ] && is "$1" state Replicating && is "$2" state Replicating; }
knows_split() { [ -n "$(replication alpha split.theirs)" ]; }

act_6() {
    say "Second act: alpha comes back. Its copy is the past, and it knows: it starts nothing and sends nothing"
    serve alpha
    on alpha server set --replica on
    on alpha authorization add beta.test --location "$work/alpha/replicas"
    await 90 "alpha knows that beta went on" knows_split
    on alpha vm start $vm && fail "a second copy of the VM was started"
    note "(refused: exit code $?)"

    say "beta gives the direction: alpha becomes its replica, with the disks it has; only what differs travels"
    start_writers beta
    local from
    from=$(now_ms)
    on beta replication reverse $vm
    await 120 "both copies are equal" in_step beta alpha
    back_ms=$(($(now_ms) - from))
    back_bytes=$(replication beta counters.bytes)
    on beta replication status $vm | head -n 12
}

act_7() {
    say "And home again, planned: one command, nothing lost"
    local boots from record
    boots=$(boots alpha)
    from=$(now_ms)
    on alpha failover start $vm --planned
    await 120 "alpha is the primary again" is alpha mode Primary
    await_boot "$boots" alpha
    home_ms=$(($(now_ms) - from))
    verify alpha
    read -r record _ < <(tools acked "$(console beta)" append)
    note "the last record that the guest on beta reported as durable: $record; found on alpha: $high"
    [ "$high" -ge "$record" ] || fail "a planned failover lost records"
    checks=$((checks + 1))
    start_writers alpha
    await 120 "beta is alpha's replica again" in_step alpha beta
    at_least_cycles 3
    on alpha replication status $vm | head -n 12
}

row() { printf '   %-52s %s\n' "$1" "$2"; }

report() {
    say "Measured on this machine, the guest emulated in software"
    row "initial copy of the running VM" "$((copy_bytes >> 20)) MiB of disks, $used MiB of it in use, in $(seconds "$copy_ms"), $((used * 1000 / (copy_ms + 1))) MiB/s"
    row "interval; cycles before the loss; last latency" "1 s; $cycles; $latency ms"
    row "data at risk as alpha showed it last" "$(seconds "$lag")"
    row "age of beta's newest data when alpha was lost" "$(seconds $risk)"
    row "work really lost, by the guest's records" "$(seconds $lost_ms) ($((acked > found ? acked - found : 0)) records)"
    row "failover to the newest data: disks and QEMU" "$(seconds "$failover_ms")"
    row "   then the guest's boot" "$(seconds $boot_ms)"
    row "failover to $good_time: disks and QEMU" "$(seconds "$at_ms")"
    row "revert: command; of it turning off and discarding" "$(seconds $revert_ms); $(seconds "$revert_job_ms")"
    row "commit, the VM running" "$(seconds "$commit_ms")"
    row "records found: newest data, $good_time, in the end" "$found, $at_found, $high"
    row "alpha's return: sent to make the old copy equal" "$((back_bytes >> 10)) KiB in $(seconds $back_ms), of $used MiB in use"
    row "planned return: shutdown, last delta, boot at home" "$(seconds $home_ms), 0 records lost"
    row "verdicts" "$checks of $checks good"
    note ""
    note "the whole demo took $(seconds $(($(now_ms) - began))); look around yourself with: DEMO_KEEP=1 make demo"
}

act_1
act_2
act_3
act_4
act_5
act_6
act_7
report
