//! TCP ports on the loopback interface.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

/// How often a child is started again when its port was taken between the choice and the bind.
pub(crate) const ATTEMPTS: usize = 5;

/// A port of 127.0.0.1 that was free a moment ago. Another process can take it before the caller binds it, so the
/// caller retries; [`crate::Postgres`] and [`crate::Anvil`] do.
///
/// # Errors
/// When the system has no port left.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether somebody listens on this port already.
pub(crate) fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Whether a child's last words say that its port was taken.
pub(crate) fn log_says_taken(tail: &str) -> bool {
    tail.contains("Address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_free_until_bound() {
        let port = free_port().unwrap();
        assert!(!is_taken(port));
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(is_taken(port));
    }
}
