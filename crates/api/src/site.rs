//! Where browsers reach this service: what wallets are shown, and what a request must come from.

use std::net::SocketAddr;

use url::{Host, Url};

/// The service's own origin: scheme, host and port, and nothing behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    origin: String,
    /// Host and port as in the origin.
    domain: String,
    secure: bool,
}

/// A text that is no origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSite {
    /// It is no URL, or has more than scheme, host and port.
    #[error(
        "an origin is needed, as in https://billing.example.org: http or https, a host, perhaps a port, and no path"
    )]
    NoOrigin,
    /// Cookies and signatures would go over the network in the clear.
    #[error("http is for this machine only; anywhere else it must be https")]
    InTheClear,
}

impl Site {
    /// The origin that `url` is.
    ///
    /// # Errors
    /// [`InvalidSite`].
    pub fn parse(url: &str) -> Result<Self, InvalidSite> {
        let url = Url::parse(url).map_err(|_| InvalidSite::NoOrigin)?;
        let origin = url.origin();
        let more = url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some();
        if more || !origin.is_tuple() || !["http", "https"].contains(&url.scheme()) {
            return Err(InvalidSite::NoOrigin);
        }
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
            Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
            None => return Err(InvalidSite::NoOrigin),
        };
        let secure = url.scheme() == "https";
        if !secure && !here {
            return Err(InvalidSite::InTheClear);
        }
        Ok(Self::of(origin.ascii_serialization(), secure))
    }

    /// The origin of a server that listens at `address` and is reached there, without TLS.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self::of(format!("http://{address}"), false)
    }

    fn of(origin: String, secure: bool) -> Self {
        let domain = origin.split_once("://").map_or(origin.as_str(), |(_, domain)| domain).to_owned();
        Self { origin, domain, secure }
    }

    /// As browsers send it in `Origin`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is reached by TLS only.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// As the first line of an EIP-4361 message has it: without a scheme, https is meant.
    pub(crate) fn signer_domain(&self) -> &str {
        if self.secure { &self.domain } else { &self.origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_no_path_and_is_in_the_clear_on_this_machine_only() {
        for (text, origin) in [
            ("https://billing.example.org", "https://billing.example.org"),
            ("https://Billing.Example.org:443/", "https://billing.example.org"),
            ("https://billing.example.org:8443", "https://billing.example.org:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            let site = Site::parse(text).unwrap();
            assert_eq!((site.origin(), site.is_secure()), (origin, origin.starts_with("https")));
        }
        for bad in [
            "",
            "billing.example.org",
            "https://billing.example.org/billing",
            "https://billing.example.org?a",
            "https://billing.example.org#a",
            "https://user@billing.example.org",
            "ftp://billing.example.org",
            "data:text/plain,a",
            "file:///billing",
        ] {
            assert_eq!(Site::parse(bad), Err(InvalidSite::NoOrigin), "{bad}");
        }
        assert_eq!(Site::parse("http://billing.example.org"), Err(InvalidSite::InTheClear));
        assert_eq!(Site::parse("http://10.0.0.1"), Err(InvalidSite::InTheClear));
        assert_eq!(Site::at("127.0.0.1:80".parse().unwrap()).signer_domain(), "http://127.0.0.1:80");
    }
}
