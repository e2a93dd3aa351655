//! Frames: sent and heard by raw sockets on the devices of two virtual machines, VLAN tags and all.
//!
//! A guest with VLAN interfaces would send such frames by its kernel; a raw socket sends and hears the same ones, on
//! kernels without VLAN devices too. A frame is known by its payload, so that what the guests send meanwhile is left
//! aside, and by its number, so that a copy does not pass for another one.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lamina_api::topology::Frames;
use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::NetNs;
use lamina_backend::{Backend, PacketPool};
use lamina_core::packet::{Batch, Packet};

use super::pattern::Pattern;
use crate::lab::fabric::GUEST_INTERFACE;

/// The port of datagrams that nobody answers (RFC 863).
const DISCARD: u16 = 9;
const UDP: u8 = 17;
/// The 802.1Q and 802.1ad tag protocols.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Bytes of a payload: what distinguishes a check, and a frame within it.
const PAYLOAD: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Frames that the sender's device took.
    pub sent: u16,
    /// Frames that arrived with the tags that they should have.
    pub arrived: u16,
    /// Frames that arrived with other tags, by these.
    pub otherwise: BTreeMap<Vec<u16>, u16>,
    /// Frames that arrived again.
    pub duplicates: u16,
}

/// Sends the frames of `probe` in the first namespace, and hears them in the second.
pub fn run([from, to]: [&NetNs; 2], probe: &Frames, seed: u64) -> io::Result<Heard> {
    // A device of its own: the guest's stack goes on to use it, and frames for other MACs are heard too.
    let config = AfPacketConfig { promiscuous: true, ..AfPacketConfig::uplink(GUEST_INTERFACE) };
    let mut listener = to.run(|| AfPacket::open(&config))??;
    let mut sender = from.run(|| AfPacket::open(&config))??;
    let mut pool = PacketPool::for_super_frames(64);
    let mut heard = Heard::default();
    let mut is_known = vec![false; usize::from(probe.count)];
    let started = Instant::now();
    let now = |started: Instant| lamina_core::time::Instant(started.elapsed().as_nanos() as u64);
    for number in 0..probe.count {
        let Some(mut packet) = pool.take() else { break };
        packet.copy_from(&Packet::from_frame(&frame(probe, seed, number)));
        let mut batch: Batch = vec![packet];
        heard.sent += u16::from(sender.transmit(now(started), &mut pool, &mut batch).sent == 1);
    }
    let mut batch = Batch::new();
    // A frame that should not come, or a copy, may come late: only those that should come end the wait.
    while started.elapsed() < probe.timeout && heard.arrived < probe.count {
        if listener.receive(now(started), &mut pool, &mut batch, 32) == 0 {
            std::thread::sleep(PAUSE);
        }
        for packet in batch.drain(..) {
            if let Some((tags, number)) = read(packet.frame(), seed) {
                match is_known.get_mut(usize::from(number)) {
                    Some(known) if *known => heard.duplicates += 1,
                    Some(known) => {
                        *known = true;
                        if tags == probe.arrives {
                            heard.arrived += 1;
                        } else {
                            *heard.otherwise.entry(tags).or_default() += 1;
                        }
                    }
                    None => {}
                }
            }
            pool.give(packet);
        }
    }
    Ok(heard)
}

/// The frame number `number` of a check.
fn frame(probe: &Frames, seed: u64, number: u16) -> Vec<u8> {
    let [source, destination] = probe.macs;
    let mut frame = [destination.0, source.0].concat();
    for (at, id) in probe.tags.iter().enumerate() {
        let is_outer = at + 1 < probe.tags.len();
        frame.extend(TAGS[usize::from(is_outer)].to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    let [from, to] = probe.addresses;
    let mut datagram =
        [DISCARD.to_be_bytes(), DISCARD.to_be_bytes(), (8 + PAYLOAD as u16).to_be_bytes(), [0; 2]].concat();
    datagram.extend(payload(seed, number));
    let sum = checksum(&[pseudo_header(from, to, &datagram), datagram.clone()].concat());
    // Zero would say that there is none (RFC 768).
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    let length = datagram.len() as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend(0x0800u16.to_be_bytes());
            let mut header =
                [&[0x45, 0][..], &(20 + length).to_be_bytes(), &[0, 0, 0, 0, 64, UDP, 0, 0]].concat();
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (from, to) => {
            frame.extend(0x86ddu16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([UDP, 64]);
            frame.extend(octets(from));
            frame.extend(octets(to));
        }
    }
    frame.extend(datagram);
    frame
}

/// What is in no packet and yet summed (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(from: IpAddr, to: IpAddr, datagram: &[u8]) -> Vec<u8> {
    [octets(from), octets(to), (datagram.len() as u32).to_be_bytes().to_vec(), vec![0, 0, 0, UDP]].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn payload(seed: u64, number: u16) -> Vec<u8> {
    let mut payload = b"lamina".to_vec();
    payload.extend(seed.to_be_bytes());
    payload.extend(number.to_be_bytes());
    payload.resize(PAYLOAD, 0);
    Pattern::new(seed ^ u64::from(number)).fill(&mut payload[16..]);
    payload
}

/// The tags and the number of a frame, when it is one of the check's, its payload unchanged.
fn read(frame: &[u8], seed: u64) -> Option<(Vec<u16>, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let mut tags = Vec::new();
    let mut at = 12;
    while TAGS.contains(&word(at)?) {
        tags.push(word(at + 2)? & 0x0fff);
        at += 4;
    }
    let headers = match word(at)? {
        0x0800 => 20,
        0x86dd => 40,
        _ => return None,
    };
    let found = frame.get(at + 2 + headers + 8..)?;
    let number = u16::from_be_bytes(found.get(14..16)?.try_into().ok()?);
    // Short frames are padded.
    found.starts_with(&payload(seed, number)).then_some((tags, number))
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use lamina_api::Mac;
    use lamina_core::flow::L4;

    use super::*;

    fn probe(addresses: [&str; 2], tags: &[u16]) -> Frames {
        Frames {
            from: "a".into(),
            to: "b".into(),
            macs: [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])],
            addresses: addresses.map(|address| address.parse().unwrap()),
            tags: tags.to_vec(),
            arrives: Vec::new(),
            count: 1,
            timeout: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_sent_is_known_again_by_its_tags_and_number() {
        for (addresses, tags) in [
            (["10.0.0.1", "10.0.0.2"], &[][..]),
            (["10.0.0.1", "10.0.0.2"], &[20]),
            (["fd00::1", "fd00::2"], &[100, 4094]),
        ] {
            let sent = frame(&probe(addresses, tags), 7, 300);
            assert_eq!(read(&sent, 7), Some((tags.to_vec(), 300)));
            assert_eq!(read(&sent, 8), None, "of another check");
            assert_eq!(read(&[&sent[..], &[0; 6]].concat(), 7), Some((tags.to_vec(), 300)), "padded");
            for end in 0..sent.len() {
                assert_eq!(read(&sent[..end], 7), None, "cut");
            }
            let mut changed = sent.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(read(&changed, 7), None);
        }
    }

    #[test]
    fn frames_are_whole_with_right_checksums() {
        for addresses in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let sent = frame(&probe(addresses, &[100, 20]), 7, 0);
            let parsed = lamina_core::packet::parse(&sent).unwrap();
            let id = parsed.stack.outermost().flow_id;
            let ids: Vec<u16> = id.l2.unwrap().tags.iter().map(|tag| tag.id()).collect();
            assert_eq!(ids, [100, 20]);
            assert!(matches!(id.l4, Some(L4::Udp(_))));
            let [from, to] = probe(addresses, &[]).addresses;
            let datagram = &sent[sent.len() - 8 - PAYLOAD..];
            assert_eq!(checksum(&[pseudo_header(from, to, datagram), datagram.to_vec()].concat()), 0);
        }
    }
}
