#!/bin/busybox sh
# The guest's first process. Puts a file system in memory over the machine's own, which is read-only, and starts there what
# was built on the machine. Parameters of the kernel's command line are in its environment.
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/bin:/usr/bin
fail() { echo "init: $*"; poweroff -f; }
mount -t proc proc /proc
for module in /modules/*; do insmod "$module" || fail "$module cannot be loaded"; done

files=trans=virtio,version=9p2000.L,msize=512000
mkdir /machine /memory
mount -t 9p -o "$files,ro,cache=loose" machine /machine || fail "the machine's files cannot be had"
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/machine,upperdir=/memory/upper,workdir=/memory/work overlay /root || fail "no overlay"

mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/hugepages
mount -t devpts -o ptmxmode=666 pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mount -t hugetlbfs huge /root/dev/hugepages
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup /root/sys/fs/cgroup
mkdir -p /root/run/netns /root/usr/lib/modules
mount -o bind "/root$WEIR_VM/lib/modules" /root/usr/lib/modules
# Directories of the machine that the guest may write to, in the order of their tags.
number=0
for place in $(echo "$WEIR_SHARES" | tr : ' '); do
    mkdir -p "/root$place"
    mount -t 9p -o "$files,cache=none" "share$number" "/root$place" || fail "$place cannot be shared"
    number=$((number + 1))
done

ifconfig lo 127.0.0.1 up
cp /bin/busybox /root/run/busybox
# The first process itself goes there: the kernel looks for modprobe where the first process is.
exec chroot /root /run/busybox sh -c '
    if modprobe -a igb igbvf vfio_iommu_type1 vfio-pci tun; then
        echo "init: the guest is up"
        "$WEIR_AGENT" __agent
    else
        echo "init: no drivers"
    fi
    exec /run/busybox poweroff -f'
