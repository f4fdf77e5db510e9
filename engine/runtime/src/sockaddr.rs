//! Addresses as the kernel takes them.
#![allow(unsafe_code)]

use std::net::SocketAddr;

/// Writes `address` in C's form; returns its bytes.
pub(crate) fn write_sockaddr(
    address: SocketAddr,
    storage: &mut libc::sockaddr_storage,
) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let c_address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room and alignment for every address kind.
            unsafe { std::ptr::from_mut(storage).cast::<libc::sockaddr_in>().write(c_address) };
            size_of_val(&c_address) as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let c_address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { std::ptr::from_mut(storage).cast::<libc::sockaddr_in6>().write(c_address) };
            size_of_val(&c_address) as libc::socklen_t
        }
    }
}
