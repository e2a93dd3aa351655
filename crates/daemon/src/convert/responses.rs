//! Responses: names become numbers, written options become bytes, and what does not fit a message is refused.

use std::sync::Arc;

use lamina_api::document::{
    self, Dhcp as WrittenDhcp, DhcpLease as WrittenLease, DhcpOption as WrittenOption,
    Dhcpv6 as WrittenDhcpv6, Dhcpv6Lease, MacSource as WrittenMac, Preference, Respond as WrittenRespond,
    RouterAdvertisement as WrittenRouter,
};
use lamina_api::{At, Code, Source, Span};
use lamina_core::action::{Dhcp, Dhcpv6, LeaseSource, MacSource, Respond};
use lamina_core::address::MacAddr;
use lamina_core::packet::{
    Advertised, AdvertisedPrefix, AdvertisedRoute, DhcpOption, DhcpServer, Dhcpv6Option, Dhcpv6Server,
    DnsName, RouterAdvertisement, RouterPreference, dhcp_code, link_local,
};
use lamina_core::resource::{DnsTableId, Lease, LeaseTableId};

use super::{Converter, Scope};

/// What the options of an answer to a client that says no more may take: its 576 bytes without headers, fixed fields,
/// the options that every answer has, and a client id of usual length.
const USUAL_OPTIONS: usize = 576 - 28 - 240 - 30 - 32;
/// What the options of a DHCPv6 answer may take: 1,280 bytes without headers, ids and one address.
const LONGEST_V6_OPTIONS: usize = 1280 - 48 - 300;

impl Converter {
    pub(super) fn respond(
        &mut self,
        source: &Source,
        respond: &At<&WrittenRespond>,
        scope: &Scope<'_>,
    ) -> Option<Respond> {
        Some(match respond.value {
            WrittenRespond::Arp(written) => Respond::Arp(self.mac_source(source, written, scope)?),
            WrittenRespond::Nd(written) => {
                Respond::NeighborDiscovery(self.mac_source(source, written, scope)?)
            }
            WrittenRespond::Echo => Respond::Echo,
            WrittenRespond::Dhcp(written) => {
                Respond::Dhcp(Arc::new(self.dhcp(source, respond.span, written, scope)?))
            }
            WrittenRespond::Dhcpv6(written) => {
                Respond::Dhcpv6(Arc::new(self.dhcpv6(source, respond.span, written, scope)?))
            }
            WrittenRespond::Dns(name) => {
                let Some(number) = scope.tables.dns.number(&name.value) else {
                    self.missing(source, name, "table of domain names", scope.tables.dns.names());
                    return None;
                };
                Respond::Dns(DnsTableId(number))
            }
            WrittenRespond::RouterAdvertisement(written) => {
                Respond::RouterAdvertisement(Arc::new(self.router(source, respond.span, written)?))
            }
        })
    }

    fn mac_source(&mut self, source: &Source, written: &WrittenMac, scope: &Scope<'_>) -> Option<MacSource> {
        match written {
            WrittenMac::Fixed(mac) => Some(MacSource::Fixed(MacAddr(mac.0))),
            WrittenMac::Mapping { mapping, tenant } => {
                let mapping = self.mapping(source, mapping, scope)?;
                Some(MacSource::Mapping { mapping, key_tenant: *tenant })
            }
        }
    }

    fn lease_table(
        &mut self,
        source: &Source,
        name: &At<lamina_api::Name>,
        scope: &Scope<'_>,
    ) -> Option<LeaseSource> {
        let number = scope.tables.leases.number(&name.value);
        if number.is_none() {
            self.missing(source, name, "lease table", scope.tables.leases.names());
        }
        number.map(|number| LeaseSource::Table(LeaseTableId(number)))
    }

    fn dhcp(
        &mut self,
        source: &Source,
        span: Span,
        written: &WrittenDhcp,
        scope: &Scope<'_>,
    ) -> Option<Dhcp> {
        let (lease, prefix_len) = match &written.lease {
            WrittenLease::Fixed { address, host_name } => {
                let lease = Lease {
                    v4: Some(address.addr()),
                    v6: None,
                    host_name: host_name.as_deref().map(Box::from),
                };
                (Some(LeaseSource::Fixed(lease)), address.prefix_len())
            }
            WrittenLease::Table { leases, prefix_len } => {
                (self.lease_table(source, leases, scope), *prefix_len)
            }
        };
        let mut options = Vec::new();
        if !written.routers.is_empty() {
            options.push(DhcpOption::addresses(dhcp_code::ROUTERS, &written.routers));
        }
        if !written.routes.is_empty() {
            let mut routes = written.routes.clone();
            // A client that reads these ignores the routers (RFC 3442), so the default route must be among them.
            if let Some(router) = written.routers.first()
                && routes.iter().all(|(to, _)| to.prefix_len() > 0)
            {
                routes.push((ipnet::Ipv4Net::default(), *router));
            }
            options.push(DhcpOption::routes(&routes));
        }
        if !written.dns.is_empty() {
            options.push(DhcpOption::addresses(dhcp_code::DNS_SERVERS, &written.dns));
        }
        options.extend(written.domain.as_deref().map(|domain| DhcpOption::text(dhcp_code::DOMAIN, domain)));
        options.extend(written.mtu.map(DhcpOption::mtu));
        options.extend(written.options.iter().map(|option| DhcpOption {
            code: option.value.code as u8,
            value: option.value.value.clone().into(),
        }));
        let length: usize =
            options.iter().map(|option| 2 * option.value.len().div_ceil(255) + option.value.len()).sum();
        if length > USUAL_OPTIONS {
            let message = format!("the options of this server take {length} bytes");
            let help = format!(
                "a client that does not say that it takes more gets at most {USUAL_OPTIONS}, the first that it \
                 asks for; give less"
            );
            self.warn(Code::OutOfRange, source, span, message, help);
        }
        let server = DhcpServer {
            mac: MacAddr(written.mac.0),
            address: written.server,
            prefix_len,
            lease_seconds: written.time,
            renew_seconds: written.renew,
            rebind_seconds: written.rebind,
            options,
        };
        Some(Dhcp { server, lease: lease? })
    }

    fn dhcpv6(
        &mut self,
        source: &Source,
        span: Span,
        written: &WrittenDhcpv6,
        scope: &Scope<'_>,
    ) -> Option<Dhcpv6> {
        let lease = match &written.lease {
            Dhcpv6Lease::None => Some(LeaseSource::Fixed(Lease::default())),
            Dhcpv6Lease::Fixed(address) => {
                Some(LeaseSource::Fixed(Lease { v6: Some(*address), ..Lease::default() }))
            }
            Dhcpv6Lease::Table(name) => self.lease_table(source, name, scope),
        };
        let mut options = Vec::new();
        if !written.dns.is_empty() {
            options.push(Dhcpv6Option::dns_servers(&written.dns));
        }
        if !written.search.is_empty() {
            options.push(Dhcpv6Option::search(&wire_names(&written.search)));
        }
        let own = |option: &At<WrittenOption>| Dhcpv6Option {
            code: option.value.code,
            value: option.value.value.clone().into(),
        };
        options.extend(written.options.iter().map(own));
        let length: usize = options.iter().map(|option| 4 + option.value.len()).sum();
        if length > LONGEST_V6_OPTIONS {
            let message = format!("the options of this server take {length} bytes");
            let help = format!("at most {LONGEST_V6_OPTIONS} are possible; give less");
            self.error(Code::OutOfRange, source, span, message, help);
            return None;
        }
        let mac = MacAddr(written.mac.0);
        let server = Dhcpv6Server {
            mac,
            source: written.source.unwrap_or(link_local(mac)),
            preferred_seconds: written.preferred,
            valid_seconds: written.valid,
            renew_seconds: written.renew,
            rebind_seconds: written.rebind,
            rapid_commit: written.rapid_commit,
            options,
        };
        Some(Dhcpv6 { server, lease: lease? })
    }

    fn router(
        &mut self,
        source: &Source,
        span: Span,
        written: &WrittenRouter,
    ) -> Option<RouterAdvertisement> {
        let preference = |preference| match preference {
            Preference::Low => RouterPreference::Low,
            Preference::Medium => RouterPreference::Medium,
            Preference::High => RouterPreference::High,
        };
        let prefix = |prefix: &document::Prefix| AdvertisedPrefix {
            prefix: prefix.prefix,
            on_link: prefix.on_link,
            autonomous: prefix.autonomous,
            valid_seconds: prefix.valid,
            preferred_seconds: prefix.preferred,
        };
        let route = |route: &document::Route| AdvertisedRoute {
            prefix: route.to,
            preference: preference(route.preference),
            lifetime_seconds: route.lifetime,
        };
        let advertised = Advertised {
            hop_limit: written.hop_limit,
            managed: written.managed,
            other: written.other,
            preference: preference(written.preference),
            lifetime_seconds: written.lifetime,
            mtu: written.mtu,
            prefixes: written.prefixes.iter().map(prefix).collect(),
            routes: written.routes.iter().map(route).collect(),
            dns_servers: written.dns.clone(),
            search: wire_names(&written.search),
            dns_lifetime_seconds: written.dns_lifetime,
        };
        let mac = MacAddr(written.mac.0);
        let advertisement =
            RouterAdvertisement::new(mac, written.source.unwrap_or(link_local(mac)), &advertised);
        if advertisement.is_none() {
            let help = "an advertisement has at most 1240 bytes; give fewer prefixes, routes or domains";
            self.error(Code::OutOfRange, source, span, "this advertisement is too long", help);
        }
        advertisement
    }
}

/// Domain names, which were checked when they were read, as they stand in a message.
fn wire_names(names: &[String]) -> Vec<Box<[u8]>> {
    names.iter().filter_map(|name| DnsName::from_text(name)).map(|name| name.as_wire().into()).collect()
}
