//! Why a packet was dropped. One list, one number per reason that is never reused, one line of documentation
//! each; counters, traces and `lamina explain` all read this list.

macro_rules! drop_reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal; )+) => {
        /// The one reason for which a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $( $(#[doc = $doc])+ $variant = $number, )+
        }

        impl DropReason {
            /// Every reason, in order of number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The stable name used in counters and output.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for a person: what happened and what to look at.
            pub const fn explanation(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// A rule with action block matched, or nothing matched in a layer whose default is block.
    Blocked = 1, "blocked";
    /// The frame is shorter than an Ethernet header.
    FrameTooShort = 2, "frame-too-short";
    /// A header is cut off by the end of the frame.
    Truncated = 3, "truncated";
    /// An IPv4 header is wrong: version, header length, or total length beyond the frame.
    BadIpv4Header = 4, "bad-ipv4-header";
    /// An IPv6 header is wrong: version, payload length, or a malformed extension header.
    BadIpv6Header = 5, "bad-ipv6-header";
    /// The IPv4 header checksum is wrong.
    BadIpv4Checksum = 6, "bad-ipv4-checksum";
    /// A transport header is wrong: TCP data offset or UDP length outside the packet.
    BadTransportHeader = 7, "bad-transport-header";
    /// An ARP packet is not Ethernet and IPv4, or is cut off.
    BadArp = 8, "bad-arp";
    /// A tunnel header is wrong: unknown version, reserved flag that must be understood, or options cut off.
    BadTunnelHeader = 9, "bad-tunnel-header";
    /// More VLAN tags, header groups or header bytes than the parser follows.
    TooManyHeaders = 10, "too-many-headers";
    /// A non-first fragment met policy that needs transport ports, which only the first fragment has.
    FragmentWithoutPorts = 11, "fragment-without-ports";
    /// The port is not running: it waits for its first policy or for its NIC.
    PortNotReady = 12, "port-not-ready";
    /// The port is paused and its queue is full.
    PortPaused = 13, "port-paused";
    /// No port has the destination MAC and there is no uplink to send it to.
    NoSuchDestination = 14, "no-such-destination";
    /// A packet from the uplink is for no port of this host, and not for the host itself: a tunnel of an unknown tenant or inner MAC, or somebody else's MAC; it never goes back to the uplink.
    NotForThisHost = 15, "not-for-this-host";
    /// The destination is multicast and no responder answered and no multicast set is named.
    MulticastUnanswered = 16, "multicast-unanswered";
    /// A mapping table has no entry for the key that the rule looked up.
    MappingMiss = 17, "mapping-miss";
    /// A target set is empty, or all its weights are 0, so nothing can be chosen.
    NoTarget = 18, "no-target";
    /// The time to live or hop limit would reach zero.
    TtlExceeded = 19, "ttl-exceeded";
    /// The outer header says congestion experienced, the inner one cannot carry it (RFC 6040).
    EcnViolation = 20, "ecn-violation";
    /// Another conversation already owns the tuple that this stateful rule would produce.
    FlowKeyTaken = 21, "flow-key-taken";
    /// The layer's flow table is full and nothing in it may give way.
    LayerFlowTableFull = 22, "layer-flow-table-full";
    /// The packet's headers cannot take the change that the policy asks for.
    CannotTranspose = 23, "cannot-transpose";
    /// The resulting headers do not fit the packet's headroom or header window.
    NoHeadroom = 24, "no-headroom";
    /// The underlay has no route to the tunnel's remote address.
    UnderlayNoRoute = 25, "underlay-no-route";
    /// The underlay's next hop has not answered ARP or neighbour discovery yet.
    UnderlayNeighborUnresolved = 26, "underlay-neighbor-unresolved";
    /// The packet is larger than the path MTU and may not be fragmented.
    TooBig = 27, "too-big";
    /// A responder matched a packet that it cannot answer.
    CannotRespond = 28, "cannot-respond";
    /// The packet was handed from port to port, or turned round, more than four times: policy answers or sends back in a
    /// loop.
    TooManyTurns = 29, "too-many-turns";
    /// The destination port is the port it came from.
    SamePort = 30, "same-port";
    /// The backend's transmit queue was full.
    TransmitQueueFull = 31, "transmit-queue-full";
    /// The table of a meter is full and the key is new. Not used: such packets are counted in the meter's cell `other`.
    MeterTableFull = 32, "meter-table-full";
    /// A transport checksum is wrong where a translation would have hidden it.
    BadTransportChecksum = 33, "bad-transport-checksum";
    /// The backend could not send the frame as it is (segmentation or checksum impossible).
    TransmitFailed = 34, "transmit-failed";
    /// A hairpin names a port that this host does not have (any more).
    NoSuchPort = 35, "no-such-port";
    /// The ring to the worker that owns the packet's way out was full: that worker is overloaded or has ended.
    HandoverFull = 36, "handover-full";
    /// A DHCP or DHCPv6 message is malformed: fixed fields, options beyond its end, or no message type.
    BadDhcp = 37, "bad-dhcp";
    /// A DHCP client has no lease: its MAC is not in the lease table that the rule names.
    NoLease = 38, "no-lease";
    /// A DNS query is malformed: not one question, or a name or record beyond its end.
    BadDns = 39, "bad-dns";
    /// An answer would be longer than the client, or an Ethernet link, takes.
    AnswerTooLong = 40, "answer-too-long";
    /// The packet waited for an entry of a mapping table, and the controller of the table did not answer in time.
    MappingTimedOut = 41, "mapping-timed-out";
    /// The packet should wait for an entry of a mapping table, and as many packets or bytes of its port wait as may.
    WaitQueueFull = 42, "wait-queue-full";
    /// The packet needs an entry that its mapping table lacks, and the controller cannot be asked: the port asks for as many keys as it may, or too many events wait to be read.
    TooManyMisses = 43, "too-many-misses";
    /// A limit that the packet passes has no tokens left for it: more comes than the rule lets pass.
    Limited = 44, "limited";
    /// The frame is of a VLAN that the port does not carry, or has a tag where the port carries none, or lacks one.
    VlanNotCarried = 45, "vlan-not-carried";
    /// A copy for a mirror was not made: the port that the mirror names does not exist on this host (any more).
    MirrorNoSuchPort = 46, "mirror-no-such-port";
    /// A copy for a mirror was not made: it is larger than the port or the path to the collector takes.
    MirrorTooBig = 47, "mirror-too-big";
    /// A copy for a mirror was not made: no packet buffer was free.
    MirrorNoBuffer = 48, "mirror-no-buffer";
    /// A copy for a mirror was not made: there is no route to the collector, or its next hop has not answered yet.
    MirrorUnreachable = 49, "mirror-unreachable";
    /// A copy for a mirror was not made: the packet's headers cannot take the tunnel, or do not fit the headroom.
    MirrorImpossible = 50, "mirror-impossible";
    /// A rule sends the packet to the controller that owns the layer, and that controller does not listen.
    PuntWithoutController = 51, "punt-without-controller";
    /// A rule sends the packet to its controller, and the port has sent as many as it may for now.
    PuntLimit = 52, "punt-limit";
    /// A rule sends the packet to its controller, and too many events wait to be read.
    PuntQueueFull = 53, "punt-queue-full";
    /// A controller sends the packet on behind a layer that the port no longer has.
    PuntLayerGone = 54, "punt-layer-gone";
    /// A tunnelled packet for this host came in fragments, which are not put together: raise the MTU of the underlay, or lower the MTU inside the tunnel at the sender.
    TunnelFragmented = 55, "tunnel-fragmented";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_explained() {
        for (i, a) in DropReason::ALL.iter().enumerate() {
            assert!(a.explanation().len() > 10, "{a:?}");
            for b in &DropReason::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert!((*a as u8) < (*b as u8));
            }
        }
    }
}
