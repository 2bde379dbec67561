//! Loopback addresses of one's own.
//!
//! All of 127.0.0.0/8 is loopback on Linux, so every server gets an address
//! that nobody else uses, and with it the ports it likes, also after a restart.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// Holding it open claims the address.
const CLAIM_PORT: u16 = 20_001;

/// A loopback address that no other test has, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Host {
    ip: Ipv4Addr,
    _claim: TcpListener,
}

impl Host {
    pub(crate) fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(2_654_435_761);
        for _ in 0..1000 {
            let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let [_, a, b, c] = n.to_be_bytes();
            // 127.0.0.0/16 is where everybody else is.
            let ip = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
            if let Ok(claim) = TcpListener::bind((ip, CLAIM_PORT)) {
                return Self { ip, _claim: claim };
            }
        }
        panic!("no loopback address is free");
    }

    /// `ip:port`.
    pub(crate) fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.ip)
    }

    /// `http://ip:port`.
    pub(crate) fn url(&self, port: u16) -> String {
        format!("http://{}:{port}", self.ip)
    }
}
