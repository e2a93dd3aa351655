//! The builder and the codec against each other and against etherparse.

use super::*;

fn samples() -> Vec<PacketBuilder> {
    let tcp = eth(mac(1), mac(2)).vlan(7, 3).ipv4("10.0.0.1", "10.0.0.2").ttl(9).dscp(46).ecn(1);
    let tcp =
        tcp.options(&[1, 1, 1]).tcp(1000, 80).syn().seq(7).tcp_options(&[2, 4, 5, 0xb4]).payload(b"odd");
    let udp = eth(mac(1), mac(2)).ipv6("fd00::1", "fd00::2").flow_label(0xabcde);
    let udp = udp.extension(0, &[5, 2, 0, 0]).extension(60, &[1, 2, 0, 0]).udp(53, 5353).payload(b"question");
    let arp = eth(mac(1), MacAddr::BROADCAST).arp(1, (mac(1), "10.0.0.1"), (MacAddr::ZERO, "10.0.0.2"));
    let solicitation = eth(mac(1), mac(2)).ipv6("fd00::1", "ff02::1:ff00:2");
    let outer = eth(mac(8), mac(9)).ipv4("192.0.2.1", "192.0.2.2");
    let outer6 = eth(mac(8), mac(9)).ipv6("fd01::1", "fd01::2");
    vec![
        outer.clone().vxlan(5001).wrap(&tcp),
        outer.clone().vxlan(5001).udp_checksum(true).wrap(&udp),
        outer6.clone().geneve(0xabcdef).geneve_options(&[1, 2, 3, 4, 5, 6, 7, 8]).wrap(&tcp),
        outer.clone().nvgre(77).wrap(&udp),
        outer.clone().gre(None).wrap(&tcp),
        outer.clone().gre(Some(0xdeadbeef)).wrap(&udp),
        outer.clone().ipip().wrap(&udp),
        outer6.clone().ipip().wrap(&tcp),
        outer.clone().vxlan(1).wrap(&outer.clone().vxlan(2).wrap(&tcp)),
        solicitation.neighbor_solicitation("fd00::2", mac(1)),
        eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").echo_request(7, 1).payload(b"ping").pad_to(60),
        eth(mac(1), mac(2)).ipv6("fd00::1", "fd00::2").echo_reply(7, 1),
        eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").sctp(1, 2).payload(&[0; 4]),
        eth(mac(1), mac(2)).ethertype(0x88cc).payload(&[1; 46]),
        eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").protocol(89).payload(&[1; 46]),
        tcp,
        udp,
        arp,
    ]
}

#[test]
fn decoding_gives_back_what_was_built() {
    for packet in samples() {
        let frame = packet.frame();
        let decoded = decode(&frame).unwrap_or_else(|reason| panic!("{packet:?}: {reason:?}"));
        assert_eq!(decoded.problems(), Vec::<String>::new(), "{packet:?}");
        assert_eq!(decoded.encode(), frame, "{packet:?}");
        assert_eq!(decoded.headers.len(), packet.frame.headers.len());
        assert_eq!(decoded.payload, packet.frame.payload);
    }
}

#[test]
fn a_flipped_payload_bit_is_a_wrong_checksum_and_stays_one() {
    for packet in samples() {
        let has_transport = matches!(packet.frame.headers.last(), Some(Header::Tcp(_) | Header::Icmp(_)));
        if !has_transport || packet.frame.payload.is_empty() {
            continue;
        }
        let mut wrong = packet.frame.clone();
        let mut frame = wrong.encode();
        let slack: usize = frame.len() - wrong.header_len() - wrong.payload.len();
        let at = frame.len() - slack - 1;
        frame[at] ^= 0x40;
        wrong = decode(&frame).unwrap();
        assert_eq!(wrong.problems().len(), 1, "{packet:?}");
        assert_eq!(wrong.encode(), frame);
    }
}

#[test]
fn etherparse_agrees_on_plain_frames() {
    for packet in samples() {
        let frame = packet.frame();
        let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(&frame) else {
            panic!("etherparse cannot read {packet:?}");
        };
        let ours = decode(&frame).unwrap();
        let first = ours.outermost();
        let (ports, checksum_is_right) = match (&sliced.net, &sliced.transport) {
            (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(tcp))) => {
                assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                let right = tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload());
                ((tcp.source_port(), tcp.destination_port()), right == Ok(tcp.checksum()))
            }
            (Some(etherparse::NetSlice::Ipv6(ip)), Some(etherparse::TransportSlice::Udp(udp))) => {
                let mut header = udp.to_header();
                let ip = ip.header().to_header();
                header.checksum = header.calc_checksum_ipv6(&ip, udp.payload()).unwrap();
                let is_absent = udp.checksum() == 0;
                ((udp.source_port(), udp.destination_port()), is_absent || header.checksum == udp.checksum())
            }
            _ => continue,
        };
        assert!(checksum_is_right, "{packet:?}");
        if let Some(l4) = first.l4.and_then(Header::ports) {
            assert_eq!(l4, ports);
        }
    }
}

#[test]
fn fragments_carry_the_whole_payload_once() {
    let packet = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).payload(&[7; 100]);
    let packet6 = eth(mac(1), mac(2)).ipv6("fd00::1", "fd00::2").udp(1, 2).payload(&[7; 100]);
    for packet in [packet, packet6] {
        let fragments: Vec<Frame> =
            packet.fragments(48).iter().map(|fragment| decode(fragment).unwrap()).collect();
        assert_eq!(fragments.len(), 3);
        assert!(
            matches!(fragments[0].headers.last(), Some(Header::Udp(udp)) if udp.declared_length == Some(108))
        );
        let states: Vec<_> = fragments.iter().map(|fragment| fragment.innermost().fragment()).collect();
        use lamina_core::flow::Fragment::*;
        assert_eq!(states, [First, Later, Later]);
        let bytes: usize = fragments.iter().map(|fragment| fragment.payload.len()).sum();
        assert_eq!(bytes, 100);
        for (fragment, original) in fragments.iter().zip(packet.fragments(48)) {
            assert_eq!(fragment.encode(), original);
        }
    }
}
