#!/bin/busybox sh
# Starts nats-server and central and nothing else. What ends is started again, as
# an init system would do; nothing is ever stopped in order.

/bin/busybox mkdir -p /proc /sys /dev /data
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module"
done

ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up

# The defaults of ext4: ordered data, barriers, a commit every five seconds.
mount -t ext4 /dev/vda /data || poweroff -f
mkdir -p /data/nats
echo "machine: the disk is mounted"

while true; do
    # The address is that of the tests' machine; everything else is in the file.
    EV_NATS_STORE=/data/nats EV_NATS_ACCOUNTS=/data/nats/accounts \
        EV_NATS_SERVER_CERT=/etc/nats/server.crt EV_NATS_SERVER_KEY=/etc/nats/server.key \
        EV_NATS_CA=/etc/nats/ca.crt nats-server -c /etc/nats/single.conf --addr 0.0.0.0
    echo "machine: nats-server ended with $?"
    sleep 1
done &

while true; do
    RUST_LOG=info,async_nats=warn central run --config /etc/central.toml
    echo "machine: central ended with $?"
    sleep 1
done
