//! What goes beside a datagram's bytes: its address and its control messages, in the kernel's layout.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

use libc::c_int;

/// Room for the control messages of one datagram: packet info and segment size, with space to spare.
pub(crate) type Control = [u64; 12];

/// Storage for an address of either family.
pub(crate) type Name = libc::sockaddr_in6;

pub(crate) fn write_name(name: &mut Name, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: all-zero is a valid `sockaddr_in`.
            let mut v4: libc::sockaddr_in = unsafe { zeroed() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            // SAFETY: a `sockaddr_in6` is larger than a `sockaddr_in` and at least as strictly aligned.
            unsafe { ptr::write(ptr::from_mut(name).cast::<libc::sockaddr_in>(), v4) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = address.port().to_be();
            name.sin6_flowinfo = address.flowinfo();
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

pub(crate) fn read_name(name: &Name) -> Option<SocketAddr> {
    match c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: as in `write_name`; every bit pattern is a valid `sockaddr_in`.
            let v4 = unsafe { ptr::read(ptr::from_ref(name).cast::<libc::sockaddr_in>()) };
            let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            // The scope is kept for link-local addresses alone: of others it must not tell equal ones apart.
            let scope = if address.is_unicast_link_local() { name.sin6_scope_id } else { 0 };
            Some(SocketAddr::V6(SocketAddrV6::new(address, u16::from_be(name.sin6_port), 0, scope)))
        }
        _ => None,
    }
}

/// Writes the control messages into `buffer` and points `header` at them.
pub(crate) fn write_controls(header: &mut libc::msghdr, buffer: &mut Control, from: Option<IpAddr>, segment: u16) {
    (header.msg_control, header.msg_controllen) = (ptr::null_mut(), 0);
    if from.is_none() && segment == 0 {
        return;
    }
    // CMSG_NXTHDR looks at the lengths of what follows.
    *buffer = [0; 12];
    header.msg_control = buffer.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `header` points at `buffer` with its whole length, which is aligned for a header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut used = 0;
    if let Some(from) = from {
        used += match from {
            IpAddr::V4(address) => {
                // SAFETY: a plain C structure for which all-zero is valid.
                let mut info: libc::in_pktinfo = unsafe { zeroed() };
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(address.octets());
                // SAFETY: the buffer has room for this (CMSG_SPACE: 32 bytes) and a segment size (24) in its 96.
                unsafe { put(next, libc::IPPROTO_IP, libc::IP_PKTINFO, info) }
            }
            IpAddr::V6(address) => {
                // SAFETY: a plain C structure for which all-zero is valid.
                let mut info: libc::in6_pktinfo = unsafe { zeroed() };
                info.ipi6_addr.s6_addr = address.octets();
                // SAFETY: the buffer has room for this (CMSG_SPACE: 40 bytes) and a segment size (24) in its 96.
                unsafe { put(next, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info) }
            }
        };
        // SAFETY: both point into `buffer`; the macro gives null beyond its end.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    if segment != 0 {
        // SAFETY: as above.
        used += unsafe { put(next, libc::SOL_UDP, libc::UDP_SEGMENT, segment) };
    }
    header.msg_controllen = used as _;
}

/// Writes one control message; the space it takes.
///
/// # Safety
/// `at` must be null or point at a control message header with room for a `T` behind it.
unsafe fn put<T>(at: *mut libc::cmsghdr, level: c_int, kind: c_int, value: T) -> usize {
    // SAFETY: the caller's promise.
    let Some(message) = (unsafe { at.as_mut() }) else { return 0 };
    message.cmsg_level = level;
    message.cmsg_type = kind;
    // SAFETY: arithmetic alone.
    message.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) } as _;
    // SAFETY: `at` is a header.
    let data = unsafe { libc::CMSG_DATA(at) }.cast::<T>();
    // SAFETY: the caller's promise: there is room for a `T`.
    unsafe { ptr::write_unaligned(data, value) };
    // SAFETY: arithmetic alone.
    (unsafe { libc::CMSG_SPACE(size_of::<T>() as u32) }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for address in ["192.0.2.1:80", "[2001:db8::1]:443", "[fe80::1%3]:5", "0.0.0.0:0"] {
            let address: SocketAddr = address.parse().unwrap();
            // SAFETY: all-zero is valid.
            let mut name = unsafe { zeroed() };
            write_name(&mut name, address);
            assert_eq!(read_name(&name), Some(address));
        }
    }
}
