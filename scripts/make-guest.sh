#!/bin/bash
# Builds the guest that the tests and the demo replicate: it boots in seconds, runs the guest agent and the
# recording workload, and says on its serial console what it finds on its disks. Needs no root and no mounts.
#
#   scripts/make-guest.sh [OUTDIR]        default target/guest-image
#
#   sys.qcow2, sys.raw      160 MiB: GRUB; partition 1 ext4 (the system), partition 2 a bare area
#   data.qcow2, data.raw    256 MiB: partition 1 ext4 (/data in the guest), partition 2 a bare area
#   vmlinuz, initrd.img     for a quicker boot with -kernel, -initrd and -append "$(cat cmdline)"
#   lifeboat-workload       the static binary that is also in the guest
#   guest.json              where the bare areas lie, in bytes from the start of the disk
#
# In the guest the bare areas are /dev/lifeboat/sys-area and /dev/lifeboat/data-area. /data/records.log is verified
# at each boot if it is there; /data/autostart is a shell script run at the end of each boot if it is there.
# Nothing is rebuilt while the inputs are the same; parallel callers wait for each other.
set -euo pipefail
cd -P "$(dirname "$0")/.."
out=$(realpath -m "${1:-target/guest-image}")
parts=$PWD/scripts/guest
agent_deb=target/guest-packages/qemu-guest-agent.deb
workload=target/guest/x86_64-unknown-linux-gnu/release/lifeboat-workload
PATH=$PATH:/usr/sbin:/sbin

# Drivers of the disks, needed to reach the root file system; the rest is loaded from there.
disk_modules=(virtio_pci virtio_blk virtio_scsi ata_piix sd_mod)
# The last three read a seed disk.
modules=(virtio_console virtio_net virtio-rng virtio_balloon button evdev crc32c-intel vfat nls_cp437 nls_ascii)

# Both disks: partition 1 from 1 MiB, 128 MiB long; partition 2 behind it. In sectors.
part1_start=2048
part1_sectors=262144
part2_start=$((part1_start + part1_sectors))
sys_mib=160
data_mib=256
cmdline="console=tty0 console=ttyS0,115200 quiet loglevel=4 mitigations=off nokaslr net.ifnames=0 panic=5 random.trust_cpu=on"

fail() { echo "make-guest: $*" >&2; exit 1; }

area_bytes() { echo $((($1 * 2048 - part2_start) * 512)); }

check_inputs() {
    local file
    for file in /bin/busybox /usr/lib/grub/i386-pc/boot.img /usr/bin/grub-mkimage /usr/bin/qemu-img "$agent_deb"; do
        [ -e "$file" ] || fail "$file is missing; run 'make setup'"
    done
    kernel=$(find /boot -name 'vmlinuz-*-cloud-amd64' -printf '%f\n' | sort -V | tail -n 1)
    kernel=${kernel#vmlinuz-}
    [ -n "$kernel" ] || fail "there is no cloud kernel in /boot; run 'make setup'"
    [ -r "/boot/vmlinuz-$kernel" ] || fail "/boot/vmlinuz-$kernel cannot be read by this user"
}

build_workload() {
    RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' cargo build --quiet --release --locked \
        --target x86_64-unknown-linux-gnu --target-dir target/guest -p lifeboat-workload
}

fingerprint() {
    sha256sum scripts/make-guest.sh "$parts"/* "$workload" "$agent_deb" /bin/busybox "/boot/vmlinuz-$kernel" |
        sha256sum | cut -d' ' -f1
}

# The module files that $@ need, in loading order.
module_files() {
    modprobe --set-version "$kernel" --show-depends --all --ignore-install "$@" |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

stage_root() {
    local root=$1 applet library
    mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc/acpi/PWRF,boot,data,dev,proc,root,run,sys,tmp,var/run}
    install -m 755 /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s /bin/busybox "$root/bin/$applet"
    done
    ln -s /bin/busybox "$root/sbin/init"
    install -m 755 "$workload" "$root/bin/lifeboat-workload"
    install -m 644 "$parts/inittab" "$root/etc/inittab"
    install -m 755 "$parts"/{agent,console,fsfreeze-hook,rc,rc.down,udhcpc} "$root/etc/"
    install -m 755 "$parts/shutdown" "$root/sbin/shutdown"
    printf '#!/bin/sh\nexec poweroff\n' >"$root/etc/acpi/PWRF/00000080"
    chmod 755 "$root/etc/acpi/PWRF/00000080"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    printf 'PRETTY_NAME="Lifeboat test guest"\nID=lifeboat-guest\n' >"$root/etc/os-release"
    printf '%s\n' "${modules[@]}" >"$root/etc/modules"

    dpkg-deb --extract "$agent_deb" "$stage/agent"
    install -m 755 "$stage/agent/usr/sbin/qemu-ga" "$root/usr/sbin/qemu-ga"
    ldd "$root/usr/sbin/qemu-ga" >"$stage/ldd"
    if grep 'not found' "$stage/ldd" >&2; then fail "the guest agent's libraries are missing; run 'make setup'"; fi
    grep -o '/lib[^ ]*' "$stage/ldd" | sort -u | while read -r library; do
        cp --dereference --parents "$library" "$root/"
    done

    module_files "${disk_modules[@]}" "${modules[@]}" | xargs cp --parents --target-directory "$root"
    cp "/lib/modules/$kernel"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$kernel/"
    depmod --basedir "$root" "$kernel"
}

stage_initramfs() {
    local tree=$1 applet module number=10
    mkdir -p "$tree"/{bin,dev,proc,sys,newroot,modules}
    install -m 755 /bin/busybox "$tree/bin/busybox"
    for applet in echo findfs insmod mount sh sleep switch_root; do ln -s busybox "$tree/bin/$applet"; done
    install -m 755 "$parts/initramfs-init" "$tree/init"
    for module in $(module_files "${disk_modules[@]}"); do
        cp "$module" "$tree/modules/$number-${module##*/}"
        number=$((number + 1))
    done
    (cd "$tree" && find . | sort | cpio --quiet --create --format=newc --owner=0:0) >"$new/initrd.img"
}

# partitioned FILE MIB ID LABEL [TREE]: an empty disk with our two partitions and a file system in the first.
partitioned() {
    local file=$1 mib=$2 id=$3 label=$4 tree=${5-}
    truncate --size "${mib}M" "$file"
    sfdisk --quiet "$file" <<T
label: dos
label-id: 0x$id
start=$part1_start, size=$part1_sectors, type=83, bootable
start=$part2_start, type=da
T
    # GRUB cannot read a file system with metadata_csum_seed.
    mke2fs -q -t ext4 -b 4096 -L "$label" -U "$id-0000-4000-8000-000000000001" -J size=4 \
        -O ^metadata_csum_seed,^orphan_file \
        -E "offset=$((part1_start * 512)),lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
        ${tree:+-d "$tree"} "$file" $((part1_sectors / 2))k 2>"$stage/mke2fs" || fail "$(cat "$stage/mke2fs")"
}

# GRUB into the sectors before partition 1: boot.img without its partition table, the core image behind it.
install_grub() {
    local disk=$1
    cat >"$stage/grub.cfg" <<T
linux (hd0,msdos1)/boot/vmlinuz $cmdline
initrd (hd0,msdos1)/boot/initrd.img
boot
T
    grub-mkimage --format i386-pc --prefix '(hd0,msdos1)/boot' --config "$stage/grub.cfg" \
        --output "$stage/core.img" biosdisk part_msdos ext2 linux
    [ "$(stat --format %s "$stage/core.img")" -lt $(((part1_start - 1) * 512)) ] || fail "GRUB does not fit before partition 1"
    dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=1 count=440 conv=notrunc status=none
    dd if="$stage/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
}

build() {
    new=$out.new
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    rm -rf "$new"
    mkdir "$new"
    stage_initramfs "$stage/initramfs"
    stage_root "$stage/root"
    cp "/boot/vmlinuz-$kernel" "$new/vmlinuz"
    cp "$new"/{vmlinuz,initrd.img} "$stage/root/boot/"
    partitioned "$new/sys.raw" $sys_mib 4c420001 VMROOT "$stage/root"
    install_grub "$new/sys.raw"
    partitioned "$new/data.raw" $data_mib 4c420002 VMDATA
    qemu-img convert -O qcow2 "$new/sys.raw" "$new/sys.qcow2"
    qemu-img convert -O qcow2 "$new/data.raw" "$new/data.qcow2"
    cp "$workload" "$new/"
    echo "$cmdline" >"$new/cmdline"
    cat >"$new/guest.json" <<T
{
  "sys_area": { "offset": $((part2_start * 512)), "bytes": $(area_bytes $sys_mib) },
  "data_area": { "offset": $((part2_start * 512)), "bytes": $(area_bytes $data_mib) }
}
T
    fingerprint >"$new/fingerprint"
    rm -rf "$out"
    mv "$new" "$out"
}

check_inputs
build_workload
mkdir -p "$(dirname "$out")"
exec 9>"$out.lock"
flock 9
if [ "$(cat "$out/fingerprint" 2>/dev/null)" != "$(fingerprint)" ]; then
    build
    echo "make-guest: built $out (kernel $kernel)" >&2
fi
