//! The worlds themselves: do the gateways do what their names say?

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use campfire_lab::{Gateway, Host, Nat, World};

/// A datagram from `from` (bound to `port`) to `to` through python's socket: prints what the other end saw.
fn seen(world_host: &Host, server: &Host, port: u16, to: u16) -> Option<SocketAddr> {
    let ip = server.address();
    let mut listener = server
        .command("python3")
        .args(["-c", "import socket,sys\ns=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,socket.SOCK_DGRAM);s.bind((sys.argv[1],int(sys.argv[2])));s.settimeout(2)\nprint('ready',flush=True)\nd,a=s.recvfrom(99);print(a[0],a[1]);s.sendto(b'answer',a)"])
        .args([ip.to_string(), to.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(listener.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let answered = world_host
        .output(
            "python3",
            &[
                "-c",
                "import socket,sys\ns=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',int(sys.argv[3])));s.settimeout(2)\ns.sendto(b'x',(sys.argv[1],int(sys.argv[2])));print(s.recv(99))",
                &ip.to_string(),
                &to.to_string(),
                &port.to_string(),
            ],
        )
        .is_ok();
    line.clear();
    let _ = std::io::BufRead::read_line(&mut out, &mut line);
    let _ = listener.wait();
    let mut words = line.split_whitespace();
    let address: IpAddr = words.next()?.parse().ok()?;
    let port = words.next()?.parse().ok()?;
    answered.then_some(SocketAddr::new(address, port))
}

fn two_ports(world: &mut World, gateway: &mut Gateway, server: &Host, name: &str) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let host = world.host(gateway, name).unwrap();
    (seen(&host, server, 4000, 5001), seen(&host, server, 4000, 5002))
}

#[test]
fn gateways_translate_as_their_names_say() {
    if campfire_lab::net::skipped() {
        return;
    }
    let mut world = World::new("wtest").unwrap();
    let server = world.server("srv").unwrap();
    for (k, nat) in [Nat::Open, Nat::FullCone, Nat::Restricted, Nat::PortRestricted, Nat::Masquerade, Nat::Symmetric, Nat::UdpBlocked]
        .into_iter()
        .enumerate()
    {
        let mut gateway = world.gateway(&format!("g{k}"), nat, false).unwrap();
        let (one, two) = two_ports(&mut world, &mut gateway, &server, &format!("h{k}"));
        match nat {
            Nat::UdpBlocked => assert_eq!((one, two), (None, None), "{nat:?}"),
            Nat::Symmetric => {
                assert!(one.is_some() && two.is_some(), "{nat:?}");
                assert_ne!(one, two, "{nat:?} maps each destination to a port of its own");
            }
            _ => {
                assert!(one.is_some(), "{nat:?}");
                assert_eq!(one, two, "{nat:?} keeps one mapping");
            }
        }
        let keeps_port = matches!(nat, Nat::Open | Nat::Masquerade);
        if keeps_port {
            assert_eq!(one.unwrap().port(), 4000, "{nat:?} keeps the port");
        }
    }
}
