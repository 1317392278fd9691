//! What a wallet signs: messages of EIP-4361, made here, and compared to the letter with what is made here again.
//!
//! Nothing is stored when a challenge is asked for, so that asking fills no table and uses up no one's limit. Its nonce is
//! random and carries a code (HMAC-SHA256) over everything else in the message, so that only a message that was given out
//! here comes back valid. To check one, its few values are read from it, the whole message is made of them again, and both
//! must be the same text: there is no other spelling, nothing in front, nothing behind, no field that was left unread. What
//! was signed has one effect: the ledger notes its nonce in the same transaction.

use std::fmt;

use alloy_primitives::{Address, hex};
use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use dues_domain::ids::AccountId;
use dues_store::{ChallengeKey, SpentChallenge};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    problem::{Code, Problem},
    site::Site,
};

/// How long there is to sign.
const VALID_FOR: TimeDelta = TimeDelta::minutes(10);
/// Longer than any message that is made here.
const MAX_LENGTH: usize = 2_000;

/// What a signature is for. It stands in the message, so that one for something else is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The wallet is to belong to the account.
    Link(AccountId),
    /// It is not to any more.
    Unlink(AccountId),
    /// Whoever has the wallet wants a session.
    SignIn,
}

/// In letters that EIP-4361 allows in a statement.
impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(account) => write!(f, "Link this wallet to the account {account}.")?,
            Self::Unlink(account) => write!(f, "Unlink this wallet from the account {account}.")?,
            Self::SignIn => f.write_str("Sign in to see and manage the subscriptions of this wallet.")?,
        }
        f.write_str(" This moves no money and allows nobody to move any.")
    }
}

/// A message without its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Challenge {
    purpose: Purpose,
    address: Address,
    chain_id: u64,
    /// Of whole seconds.
    issued_at: DateTime<Utc>,
}

/// A message that was given out here and has not expired. Whether it was signed, and by whom, is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// Who has to sign it.
    pub(crate) address: Address,
    /// The chain that a contract has to say on that it has signed.
    pub(crate) chain_id: u64,
    /// What is to be noted with its effect.
    pub(crate) spent: SpentChallenge,
}

/// A message to be signed, and until when.
pub(crate) fn issue(
    key: &ChallengeKey,
    site: &Site,
    purpose: Purpose,
    (address, chain_id): (Address, u64),
    now: DateTime<Utc>,
) -> Result<(String, DateTime<Utc>), Problem> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Problem::internal(&error))?;
    let challenge = Challenge { purpose, address, chain_id, issued_at: now.trunc_subsecs(0) };
    let expires_at = challenge.expires_at();
    Ok((challenge.message(key, site, random)?, expires_at))
}

/// What `message` says, where it was given out here for `purpose` and has not expired.
pub(crate) fn read(
    key: &ChallengeKey,
    site: &Site,
    purpose: Purpose,
    message: &str,
    now: DateTime<Utc>,
) -> Result<Given, Problem> {
    let (challenge, nonce) = Challenge::parse(purpose, message).ok_or(Code::ChallengeInvalid)?;
    // The code in it is half of a MAC, and compared in constant time; the rest of the text is no secret.
    if !same(challenge.message(key, site, nonce)?.as_bytes(), message.as_bytes()) {
        return Err(Code::ChallengeInvalid.into());
    }
    let expires_at = challenge.expires_at();
    if now >= expires_at {
        return Err(Code::ChallengeExpired.into());
    }
    let Challenge { address, chain_id, .. } = challenge;
    Ok(Given { address, chain_id, spent: SpentChallenge { nonce, expires_at } })
}

impl Challenge {
    fn expires_at(&self) -> DateTime<Utc> {
        self.issued_at.checked_add_signed(VALID_FOR).unwrap_or(self.issued_at)
    }

    /// The message with the nonce that `random` gives.
    fn message(&self, key: &ChallengeKey, site: &Site, random: [u8; 16]) -> Result<String, Problem> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(key.expose()).map_err(|error| Problem::internal(&error))?;
        mac.update(self.text(site, &hex::encode(random)).as_bytes());
        let code = mac.finalize().into_bytes();
        let code = code.get(..16).unwrap_or_default();
        Ok(self.text(site, &format!("{}{}", hex::encode(random), hex::encode(code))))
    }

    fn text(&self, site: &Site, nonce: &str) -> String {
        let Self { purpose, address, chain_id, issued_at } = self;
        let instant = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!(
            "{} wants you to sign in with your Ethereum account:\n{address}\n\n{purpose}\n\nURI: {}\nVersion: 1\n\
             Chain ID: {chain_id}\nNonce: {nonce}\nIssued At: {}\nExpiration Time: {}",
            site.signer_domain(),
            site.origin(),
            instant(*issued_at),
            instant(self.expires_at()),
        )
    }

    /// The values of a message. Whether the rest of it is right is seen where it is made of them again.
    fn parse(purpose: Purpose, message: &str) -> Option<(Self, [u8; 16])> {
        if message.len() > MAX_LENGTH {
            return None;
        }
        let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let address = message.lines().nth(1)?.parse().ok()?;
        let chain_id = field("Chain ID")?.parse().ok()?;
        let issued_at = DateTime::parse_from_rfc3339(field("Issued At")?).ok()?.to_utc();
        let mut random = [0; 16];
        hex::decode_to_slice(field("Nonce")?.get(..32)?, &mut random).ok()?;
        Some((Self { purpose, address, chain_id, issued_at }, random))
    }
}

/// Whether both are the same, in a time that depends on their lengths only.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn key() -> ChallengeKey {
        ChallengeKey::new([7; 32])
    }

    fn site() -> Site {
        Site::parse("https://billing.example.org").unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-23T17:00:00.75Z".parse().unwrap()
    }

    fn given(purpose: Purpose) -> String {
        issue(&key(), &site(), purpose, (ADDRESS.parse().unwrap(), 8453), now()).unwrap().0
    }

    #[test]
    fn a_message_is_one_of_eip_4361_in_its_order_and_its_letters() {
        let account: AccountId = "019b0000-0000-7000-8000-00000000000a".parse().unwrap();
        for purpose in [Purpose::SignIn, Purpose::Link(account), Purpose::Unlink(account)] {
            let message = given(purpose);
            let lines: Vec<_> = message.split('\n').collect();
            assert_eq!(lines.len(), 11, "{message}");
            assert_eq!(lines[0], "billing.example.org wants you to sign in with your Ethereum account:");
            assert_eq!((lines[1], lines[2], lines[4]), (ADDRESS, "", ""));
            // statement = 1*( reserved / unreserved / " " ), of RFC 3986
            let allowed = |c: char| c.is_ascii_alphanumeric() || " -._~:/?#[]@!$&'()*+,;=".contains(c);
            assert!(lines[3].chars().all(allowed), "{message}");
            assert_eq!(lines[5], "URI: https://billing.example.org");
            assert_eq!((lines[6], lines[7]), ("Version: 1", "Chain ID: 8453"));
            let nonce = lines[8].strip_prefix("Nonce: ").unwrap();
            assert!(nonce.len() == 64 && nonce.chars().all(|c| c.is_ascii_alphanumeric()));
            assert_eq!(lines[9], "Issued At: 2026-11-23T17:00:00Z");
            assert_eq!(lines[10], "Expiration Time: 2026-11-23T17:10:00Z");
        }
        assert_ne!(given(Purpose::SignIn), given(Purpose::SignIn), "no two are the same");
    }

    #[test]
    fn a_message_is_good_for_its_purpose_and_site_until_it_expires() {
        let one = Purpose::Link("019b0000-0000-7000-8000-00000000000a".parse().unwrap());
        let other = Purpose::Link("019b0000-0000-7000-8000-00000000000b".parse().unwrap());
        let unlink = Purpose::Unlink("019b0000-0000-7000-8000-00000000000a".parse().unwrap());
        let message = given(one);
        let read_as = |site: &Site, purpose, key: &ChallengeKey, seconds| {
            let at = now() + TimeDelta::seconds(seconds);
            read(key, site, purpose, &message, at).map_err(|problem| problem.code())
        };
        let good = read_as(&site(), one, &key(), 598).unwrap();
        assert_eq!((good.address.to_string().as_str(), good.chain_id), (ADDRESS, 8453));
        assert_eq!(read_as(&site(), one, &key(), 600), Err(Code::ChallengeExpired));
        for purpose in [other, unlink, Purpose::SignIn] {
            assert_eq!(read_as(&site(), purpose, &key(), 0), Err(Code::ChallengeInvalid), "{purpose}");
        }
        for origin in ["https://billing.example.org:8443", "https://billing.example.com", "http://localhost"]
        {
            let elsewhere = Site::parse(origin).unwrap();
            assert_eq!(read_as(&elsewhere, one, &key(), 0), Err(Code::ChallengeInvalid), "{origin}");
        }
        assert_eq!(read_as(&site(), one, &ChallengeKey::new([8; 32]), 0), Err(Code::ChallengeInvalid));
    }

    #[test]
    fn a_message_that_was_touched_anywhere_is_none_of_ours() {
        let message = given(Purpose::SignIn);
        let refused = |text: &str| {
            let read = read(&key(), &site(), Purpose::SignIn, text, now());
            assert_eq!(read.unwrap_err().code(), Code::ChallengeInvalid, "{text}");
        };
        for at in 0..message.len() {
            let mut bytes = message.clone().into_bytes();
            bytes[at] ^= 1;
            refused(&String::from_utf8(bytes).unwrap());
            refused(&message[..at]);
        }
        for (from, to) in [
            ("8453", "08453"),
            ("8453", "+8453"),
            ("\n", "\r\n"),
            ("17:10:00Z", "18:10:00Z"),
            ("17:00:00Z", "17:00:00+00:00"),
            ("Issued", "Nonce: 00000000000000000000000000000000\nIssued"),
            (ADDRESS, &ADDRESS.to_lowercase()),
            (ADDRESS, "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
        ] {
            refused(&message.replace(from, to));
        }
        refused(&format!("{message}\n"));
        refused(&format!("{message}\nResources:\n- https://example.org"));
        refused(&format!("\n{message}"));
        refused("");
        refused(&"x".repeat(100_000));
    }
}
