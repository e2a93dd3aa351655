//! Devices, addresses, routes and neighbours, made over netlink inside a namespace.
//!
//! Every function takes a [`Session`]: a netlink socket of one namespace. Link-local addresses and duplicate
//! address detection are off for everything made here: a lab's guests have the addresses that its file names and
//! send nothing on their own.

use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use lamina_api::Mac;
use lamina_api::topology::Route;
use lamina_backend::namespace::NetNs;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage,
    State,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};
use std::os::fd::{AsFd, AsRawFd};

/// How long a device may take to come up.
const SETTLE: Duration = Duration::from_secs(5);

/// A netlink socket of one namespace.
pub(super) struct Session {
    handle: Handle,
}

/// Runs `body` with a session of the namespace `ns`.
pub(super) fn within<T: Send, F: Future<Output = Result<T>>>(
    ns: &NetNs,
    body: impl FnOnce(Session) -> F + Send,
) -> Result<T> {
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("a netlink socket could not be opened")?;
            tokio::spawn(connection);
            body(Session { handle }).await
        })
    })
    .context("a network namespace could not be entered")?
}

/// One end of a pair of virtual Ethernet devices.
pub(super) struct VethEnd<'a> {
    pub(super) ns: &'a NetNs,
    pub(super) name: &'a str,
    pub(super) mac: Option<Mac>,
}

impl Session {
    async fn index(&self, name: &str) -> Result<u32> {
        let mut links = Box::pin(self.handle.link().get().match_name(name).execute());
        match links.try_next().await {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => bail!("the device {name} is gone"),
            Err(error) => Err(error).with_context(|| format!("the device {name} is gone")),
        }
    }

    async fn add(&self, message: LinkMessage, what: &str) -> Result<()> {
        self.handle.link().add(message).execute().await.with_context(|| {
            format!("{what} could not be made (does this kernel have the device type, or its module?)")
        })
    }

    /// Makes a pair of virtual Ethernet devices, both down; the session's namespace does not matter.
    pub(super) async fn veth(&self, a: VethEnd<'_>, b: VethEnd<'_>, mtu: u32) -> Result<()> {
        let peer = end(LinkMessageBuilder::<LinkUnspec>::new(), &b, mtu).build();
        let pair = end(LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth), &a, mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.add(pair, &format!("the virtual Ethernet pair {}-{}", a.name, b.name)).await
    }

    /// Makes a bridge that floods and learns, without spanning tree, and sets it up.
    pub(super) async fn bridge(&self, name: &str, mtu: u32) -> Result<()> {
        self.add(LinkBridge::new(name).mtu(mtu).build(), &format!("the bridge {name}")).await?;
        self.up(name).await
    }

    /// Attaches the device `port` to the bridge `bridge`.
    pub(super) async fn attach(&self, port: &str, bridge: &str) -> Result<()> {
        let controller = self.index(bridge).await?;
        let index = self.index(port).await?;
        let message = LinkUnspec::new_with_index(index).controller(controller).build();
        let set = self.handle.link().set(message).execute().await;
        set.with_context(|| format!("{port} could not be attached to {bridge}"))
    }

    /// Makes a VXLAN device without learning and sets it up.
    pub(super) async fn vxlan(&self, name: &str, vxlan: &Vxlan) -> Result<()> {
        let builder = LinkVxlan::new(name, vxlan.vni)
            .port(vxlan.udp_port)
            .learning(false)
            .mtu(vxlan.mtu)
            .address(vxlan.mac.0.to_vec());
        let builder = match vxlan.local {
            IpAddr::V4(v4) => builder.local(v4),
            IpAddr::V6(v6) => builder.local6(v6).udp_zero_csum6_rx(true),
        };
        self.add(builder.build(), &format!("the VXLAN device {name}")).await?;
        self.up(name).await
    }

    /// Says behind which host the MAC `mac` is, for the VXLAN device `name`.
    pub(super) async fn forward(&self, name: &str, mac: Mac, remote: IpAddr) -> Result<()> {
        let index = self.index(name).await?;
        let entry = self.handle.neighbours().add_bridge(index, &mac.0).destination(remote);
        let added = entry.flags(NeighbourFlags::Own).replace().execute().await;
        added.with_context(|| format!("{mac} could not be put behind {remote} on {name}"))
    }

    /// Sets a device up, without a link-local address.
    pub(super) async fn up(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        let no_link_local = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                no_link_local,
            ])]))
            .build();
        // A kernel without IPv6 refuses, and has no link-local addresses either.
        let _ = self.handle.link().set(message).execute().await;
        let up = self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        up.with_context(|| format!("{name} could not be set up"))
    }

    /// Waits until a device that was set up can send, at most [`SETTLE`]: the kernel starts its queue a little later.
    pub(super) async fn settle(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let mut links = Box::pin(self.handle.link().get().match_name(name).execute());
            let link = links.try_next().await.with_context(|| format!("the device {name} is gone"))?;
            let is_up = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::OperState(State::Up));
            if link.is_some_and(|link| link.attributes.iter().any(is_up)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{name} did not come up within {SETTLE:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Gives a device an address.
    pub(super) async fn address(&self, name: &str, address: IpNet) -> Result<()> {
        let index = self.index(name).await?;
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        let message = request.message_mut();
        if address.addr().is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.with_context(|| format!("{name} could not get the address {address}"))
    }

    /// Adds a route.
    pub(super) async fn route(&self, route: &Route) -> Result<()> {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.destination.addr(), route.destination.prefix_len())
            .and_then(|builder| builder.gateway(route.via))
            .with_context(|| format!("{} via {} is no route", route.destination, route.via))?;
        let mut message = builder.build();
        if let Some(mtu) = route.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        let added = self.handle.route().add(message).execute().await;
        added.with_context(|| {
            format!("the route to {} via {} could not be added", route.destination, route.via)
        })
    }

    /// The neighbours that the kernel has a MAC of.
    pub(super) async fn neighbors(&self) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        let mut all = Box::pin(self.handle.neighbours().get().execute());
        while let Some(neighbor) = all.try_next().await.context("neighbours cannot be listed")? {
            let has_mac =
                |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(_));
            let is_usable = !matches!(
                neighbor.header.state,
                NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
            );
            if !is_usable || !neighbor.attributes.iter().any(has_mac) {
                continue;
            }
            found.extend(neighbor.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                    Some(IpAddr::V4(*address))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                    Some(IpAddr::V6(*address))
                }
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Makes a neighbour known for good.
    pub(super) async fn neighbor(&self, name: &str, address: IpAddr, mac: Mac) -> Result<()> {
        let index = self.index(name).await?;
        let entry = self.handle.neighbours().add(index, address).link_layer_address(&mac.0);
        let added = entry.replace().execute().await;
        added.with_context(|| format!("{address} could not be made known as {mac}"))
    }
}

/// What a VXLAN device is made with.
pub(super) struct Vxlan {
    pub(super) vni: u32,
    pub(super) local: IpAddr,
    pub(super) udp_port: u16,
    pub(super) mtu: u32,
    pub(super) mac: Mac,
}

fn end<T>(builder: LinkMessageBuilder<T>, end: &VethEnd<'_>, mtu: u32) -> LinkMessageBuilder<T> {
    let builder = builder
        .name(end.name.to_string())
        .mtu(mtu)
        .interface_family(AddressFamily::Unspec)
        .setns_by_fd(end.ns.as_fd().as_raw_fd());
    match end.mac {
        Some(mac) => builder.address(mac.0.to_vec()),
        None => builder,
    }
}
