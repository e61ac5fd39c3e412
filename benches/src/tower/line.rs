//! A line with a delay and with loss, packet by packet, in user space: kernels are built without `netem` often enough.
//!
//! One device is both ends: a packet from [`HERE`] to [`THERE`] comes back from [`THERE`] to [`HERE`], with the addresses exchanged
//! (which leaves every checksum right). So whoever dials [`THERE`] reaches what listens on [`HERE`], over the line.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tun_tap::{Iface, Mode};

use super::within::ip;

pub const HERE: &str = "10.9.0.1";
pub const THERE: &str = "10.9.0.2";
/// Packets that may be under way; more than the windows of TCP let be.
const UNDER_WAY: usize = 100_000;

type Packet = (Instant, Vec<u8>);

/// Lays the line, for as long as the process lives: each way takes half of `round_trip`, and of a thousand packets `lost` are lost.
pub fn lay(round_trip: Duration, mtu: u32, lost: u64) {
    let device = Arc::new(Iface::without_packet_info("line%d", Mode::Tun).unwrap());
    ip(&["address", "add", &format!("{HERE}/24"), "dev", device.name()]);
    // A burst waits here for the thread to be scheduled; a full queue would be loss that nobody asked for.
    let queue = UNDER_WAY.to_string();
    ip(&["link", "set", device.name(), "mtu", &mtu.to_string(), "txqueuelen", &queue, "up"]);
    let (sender, receiver) = sync_channel(UNDER_WAY);
    let arriving = device.clone();
    thread::spawn(move || take(&device, &sender, round_trip / 2, lost));
    thread::spawn(move || deliver(&arriving, &receiver));
}

fn take(device: &Iface, line: &SyncSender<Packet>, delay: Duration, lost: u64) {
    let mut buffer = vec![0; 65_536];
    // Any number but zero begins it; the same one, so that every run loses alike.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    loop {
        let length = device.recv(&mut buffer).unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut packet = buffer[..length].to_vec();
        if packet.first().is_some_and(|first| first >> 4 == 4) && random % 1000 >= lost {
            let (source, destination) = packet[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
            if line.send((Instant::now() + delay, packet)).is_err() {
                return;
            }
        }
    }
}

fn deliver(device: &Iface, line: &Receiver<Packet>) {
    while let Ok((due, packet)) = line.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        device.send(&packet).unwrap();
    }
}
