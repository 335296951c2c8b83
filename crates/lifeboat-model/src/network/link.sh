set -eu
mac=$1 mode=$2
shift 2
dev=
for path in /sys/class/net/*; do
    [ "$(cat "$path/address" 2>/dev/null || :)" = "$mac" ] || continue
    dev=${path##*/}
    # A bridge above a card has the card's address; only the card has a device.
    if [ -e "$path/device" ]; then break; fi
done
if [ -z "$dev" ]; then
    echo "no network card has the address $mac"
    exit 3
fi
v4= v6= g4= g6= d4= d6=
while [ $# -gt 0 ]; do
    case $1,$2 in
    address,*:*) v6=${v6:+$v6,}$2 ;;
    address,*) v4=${v4:+$v4,}$2 ;;
    gateway,*:*) g6=$2 ;;
    gateway,*) g4=$2 ;;
    dns,*:*) d6=${d6:+$d6,}$2 ;;
    dns,*) d4=${d4:+$d4,}$2 ;;
    esac
    shift 2
done
has() { command -v "$1" >/dev/null 2>&1; }
servers() {
    has resolvectl || return 0
    IFS=,
    set -- $d4 $d6
    unset IFS
    [ $# -eq 0 ] || resolvectl dns "$dev" "$@" >/dev/null 2>&1 || :
}
family() {
    [ -n "$2" ] || return 0
    ip "$1" address flush dev "$dev" scope global
    IFS=,
    for address in $2; do ip "$1" address add "$address" dev "$dev"; done
    unset IFS
    [ -z "$3" ] || ip "$1" route replace default via "$3" dev "$dev"
}

# NetworkManager would undo what is done beside it. Its profile is not saved: it lasts until the guest is started again.
if has nmcli && [ "$(nmcli -t -f RUNNING general 2>/dev/null || :)" = running ] &&
    ! nmcli -t -f DEVICE,STATE device 2>/dev/null | grep -q "^$dev:unmanaged"; then
    if [ "$mode" = keep ]; then
        nmcli device modify "$dev" ipv4.dns "$d4" ipv6.dns "$d6"
        exit 0
    fi
    nmcli connection delete "lifeboat-$dev" >/dev/null 2>&1 || :
    set -- connection add save no type ethernet con-name "lifeboat-$dev" ifname "$dev"
    [ -z "$v4" ] || set -- "$@" ipv4.method manual ipv4.addresses "$v4"
    [ -z "$v6" ] || set -- "$@" ipv6.method manual ipv6.addresses "$v6"
    [ -z "$g4" ] || set -- "$@" ipv4.gateway "$g4"
    [ -z "$g6" ] || set -- "$@" ipv6.gateway "$g6"
    [ -z "$d4" ] || set -- "$@" ipv4.dns "$d4"
    [ -z "$d6" ] || set -- "$@" ipv6.dns "$d6"
    nmcli "$@"
    nmcli connection up "lifeboat-$dev"
    exit 0
fi

ip link set dev "$dev" up
case $mode in
static)
    if has dhclient; then dhclient -x -pf "/run/dhclient.$dev.pid" "$dev" >/dev/null 2>&1 || :; fi
    family -4 "$v4" "$g4"
    family -6 "$v6" "$g6"
    ;;
dhcp)
    ip -4 address flush dev "$dev" scope global
    if has networkctl && systemctl -q is-active systemd-networkd 2>/dev/null; then
        mkdir -p /run/systemd/network
        printf '[Match]\nMACAddress=%s\n[Network]\nDHCP=yes\n' "$mac" >"/run/systemd/network/00-lifeboat-$dev.network"
        networkctl reload
        networkctl reconfigure "$dev"
    elif has dhclient; then
        dhclient -x -pf "/run/dhclient.$dev.pid" "$dev" >/dev/null 2>&1 || :
        dhclient -1 -pf "/run/dhclient.$dev.pid" "$dev"
    elif has dhcpcd; then
        dhcpcd -n "$dev"
    elif has udhcpc; then
        udhcpc -n -q -i "$dev"
    else
        echo "no DHCP client: NetworkManager, systemd-networkd, dhclient, dhcpcd or udhcpc"
        exit 4
    fi
    ;;
esac
servers
