//! The addresses of this machine.
//!
//! PostgreSQL: `pg_foreach_ifaddr`, `run_ifaddr_callback` (src/backend/libpq/ifaddr.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use walhub_proto::hba::Interface;

/// Every address of this machine with its network's mask; none when the system does not tell.
pub(super) fn of_this_machine() -> Vec<Interface> {
    match getifaddrs() {
        Ok(all) => all
            .filter_map(|it| Some(interface(ip_of(&it.address?)?, it.netmask.as_ref())))
            .collect(),
        Err(error) => {
            tracing::info!("error enumerating network interfaces: {}", error.desc());
            Vec::new()
        }
    }
}

/// A mask that is none stands for the address alone.
fn interface(address: IpAddr, netmask: Option<&SockaddrStorage>) -> Interface {
    let netmask = netmask.and_then(ip_of);
    let netmask = netmask.filter(|it| it.is_ipv4() == address.is_ipv4() && !it.is_unspecified());
    let alone: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX).into(),
    };
    Interface { address, netmask: netmask.unwrap_or(alone) }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    four.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_one_of_them() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = of_this_machine().into_iter().find(|it| it.address == loopback);
        assert!(found.is_some_and(|it| it.netmask.is_ipv4() && !it.netmask.is_unspecified()));
    }
}
