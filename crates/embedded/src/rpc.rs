//! The few JSON-RPC calls that running anvil takes, over plain HTTP on the loopback interface.

use std::{io, net::Ipv4Addr, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No connection, or it broke.
    #[error("no answer from the RPC port")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer from the RPC port after {0:?}")]
    Timeout(Duration),
    /// The answer is no JSON-RPC over HTTP.
    #[error("the RPC port answers with something that is no JSON-RPC")]
    Malformed,
    /// The node refused.
    #[error("the node refused {method}: {message} ({code})")]
    Refused {
        /// The method.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
    },
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

/// One call on a connection of its own.
pub(crate) async fn call(
    port: u16,
    method: &'static str,
    params: Value,
    within: Duration,
) -> Result<Value, RpcError> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let response =
        timeout(within, exchange(port, &body)).await.map_err(|_elapsed| RpcError::Timeout(within))??;
    let answer: Answer =
        serde_json::from_slice(http_body(&response)?).map_err(|_error| RpcError::Malformed)?;
    match answer.error {
        None => Ok(answer.result),
        Some(Refusal { code, message }) => Err(RpcError::Refused { method, code, message }),
    }
}

async fn exchange(port: u16, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    let request = format!(
        "POST / HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(response)
}

fn http_body(response: &[u8]) -> Result<&[u8], RpcError> {
    const BLANK_LINE: &[u8] = b"\r\n\r\n";
    let ok = response.starts_with(b"HTTP/1.0 200") || response.starts_with(b"HTTP/1.1 200");
    let head = response.windows(BLANK_LINE.len()).position(|window| window == BLANK_LINE);
    let body = head.and_then(|head| response.get(head.saturating_add(BLANK_LINE.len())..));
    body.filter(|_| ok).ok_or(RpcError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_cut_out() {
        assert_eq!(http_body(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        assert!(matches!(http_body(b"HTTP/1.0 500 No\r\n\r\n{}"), Err(RpcError::Malformed)));
        assert!(matches!(http_body(b"SSH-2.0-x"), Err(RpcError::Malformed)));
    }
}
