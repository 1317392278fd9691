//! `script/bench api`: the question of every request, beside a handler that answers with a constant.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use axum::{Router, http::header, response::IntoResponse as _};
use clap::Parser;
use dues_api::auth::ApiKeySecret;
use dues_embedded::{Durability, Postgres, PostgresOptions, tools};
use dues_store::{Actor, NewApiKey, Scope, Store};
use futures::future::join_all;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::Instant,
};

/// How many entitlements `dues api` answers in a second, keep-alive, of random accounts with a subscription each; beside it, in
/// the same run and by the same load, an axum handler that answers with as many constant bytes. Needs `wrk` (Debian's package).
#[derive(Parser)]
struct Arguments {
    /// Accounts
    #[arg(long, default_value_t = 10_000)]
    accounts: u64,
    /// Seconds for each figure
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections at once
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Answer with so many bytes instead of measuring
    #[arg(long, hide = true)]
    constant: Option<usize>,
}

/// An account with a subscription for each number.
const SEED: &str = "
INSERT INTO ledger.accounts (id, external_id, origin)
    SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user-' || n, 'platform'
    FROM generate_series(1, $ACCOUNTS) n;
INSERT INTO ledger.plans (id, key, version, tier, interval_unit, interval_count, price, currency, exponent)
    VALUES ('00000000-0000-7000-8000-0000000000cc', 'premium-month', 1, 'premium', 'month', 1, 99990000, 'USDC', 6);
INSERT INTO ledger.chain_plans (chain_id, contract, onchain_plan_id, merchant, token, payee, price, interval_unit,
                                interval_count, trial_seconds, grace_seconds, block_number)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 1, decode(repeat('11', 20), 'hex'), decode(repeat('22', 20), 'hex'),
            decode(repeat('33', 20), 'hex'), 99990000, 'month', 1, 0, 604800, 5);
INSERT INTO ledger.plan_prices (chain_id, contract, onchain_plan_id, plan_id, token)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 1, '00000000-0000-7000-8000-0000000000cc', decode(repeat('22', 20), 'hex'));
INSERT INTO ledger.chain_checkpoints (chain_id, contract, block_number, block_hash, final_number, merchant, start_block)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 90, decode(repeat('b9', 32), 'hex'), 30, decode(repeat('11', 20), 'hex'), 0);
INSERT INTO ledger.subscriptions (id, account_id, rail, status, chain_id, contract, onchain_id, onchain_plan_id, payer,
        reference, origin_tx, origin_plan_id, origin_ordinal, anchor, periods, paid_through, confirmed, cancel_at_period_end,
        evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx, evidence_at)
    SELECT uuidv7(), a.id, 'chain', 'active', 1, decode(repeat('cc', 20), 'hex'), n, 1, decode(lpad(to_hex(n), 40, '0'), 'hex'),
           decode(repeat('00', 32), 'hex'), decode(lpad(to_hex(n), 64, '0'), 'hex'), 1, 0, now() - interval '10 days', 1,
           now() + interval '20 days', true, false, 7, decode(repeat('b7', 32), 'hex'), 1,
           decode(repeat('e0', 32), 'hex'), now() - interval '10 days'
    FROM generate_series(1, $ACCOUNTS) n
    JOIN ledger.accounts a ON a.external_id = 'user-' || n;
ANALYZE;
";

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    async fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { child, address }
    }

    /// Resident memory in MiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if let Some(bytes) = arguments.constant {
        return constant(bytes).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // PostgreSQL runs as another user.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let options = PostgresOptions {
        durability: Durability::Scratch,
        log_dir: dir.path().join("logs"),
        ..PostgresOptions::new(tools::postgres().unwrap(), dir.path().join("postgres"))
    };
    let postgres = Postgres::start(options).await.unwrap();
    let url = postgres.create_database("bench").await.unwrap();
    let store = Store::connect(&url, 2).await.unwrap();
    store.migrate().await.unwrap();
    let pool = PgPool::connect(url.expose_secret()).await.unwrap();
    let seed = SEED.replace("$ACCOUNTS", &arguments.accounts.to_string());
    sqlx::raw_sql(AssertSqlSafe(seed)).execute(&pool).await.unwrap();
    let secret = ApiKeySecret::generate().unwrap();
    let key = NewApiKey {
        name: "bench".into(),
        prefix: secret.prefix().into(),
        hash: secret.hash(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    store.create_api_key(&key, Actor::Operator).await.unwrap();

    let program = std::env::current_exe().unwrap();
    let dues = program.parent().unwrap().parent().unwrap().join("dues");
    let address = free_address().await;
    let mut command = Command::new(dues);
    command
        .arg("api")
        .current_dir(dir.path())
        .env("DUES__DATABASE__URL", url.expose_secret())
        .env("DUES__SERVER__LISTEN", address.to_string())
        .env("DUES__SERVER__SNAPSHOT_ACCOUNTS", (arguments.accounts * 2).to_string())
        .env("DUES__SERVER__REQUESTS_PER_SECOND", "0")
        .env("DUES__LOG__FILTER", "warn");
    let dues = Server::start(command, address).await;
    let first = request(1, secret.expose());
    let mut connection = TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut connection, &first).await;
    let text = String::from_utf8(answer).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"tier\":\"premium\""), "{text}");
    let bytes = text.split_once("\r\n\r\n").unwrap().1.len();
    let idle = dues.memory();

    let address = free_address().await;
    let mut command = Command::new(program);
    command.arg("--constant").arg(bytes.to_string()).env("BENCH_ADDRESS", address.to_string());
    let floor = Server::start(command, address).await;

    println!(
        "{} accounts, {bytes} bytes an answer, {} connections",
        arguments.accounts, arguments.connections
    );
    let script = dir.path().join("load.lua");
    fs::write(&script, load(arguments.accounts, secret.expose())).unwrap();
    // Each account is read once before.
    throughput(&dues, &script, &arguments).await;
    let (one, constant) =
        (throughput(&dues, &script, &arguments).await, throughput(&floor, &script, &arguments).await);
    let (two, again) =
        (throughput(&dues, &script, &arguments).await, throughput(&floor, &script, &arguments).await);
    let (mine, floor_rate) = (one.max(two), constant.max(again));
    println!("  constant body        {floor_rate:>8.0} requests/s");
    println!("  entitlement          {mine:>8.0} requests/s   {:.0} % of it", 100.0 * mine / floor_rate);
    for (name, server) in [("constant body", &floor), ("entitlement", &dues)] {
        let (rate, mut waits) = paced(server, mine / 2.0, &arguments, secret.expose()).await;
        waits.sort_unstable();
        let at = |hundredths: usize| waits[(waits.len() - 1) * hundredths / 10_000].as_secs_f64() * 1_000.0;
        println!(
            "  {name:<14} at {rate:>6.0} requests/s: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
            at(5_000),
            at(9_900),
            at(9_990)
        );
    }
    println!("  memory of dues api: {idle} MiB before, {} MiB after", dues.memory());
    drop((dues, floor));
    pool.close().await;
    store.close().await;
    postgres.stop().await.unwrap();
}

async fn constant(bytes: usize) {
    let address = std::env::var("BENCH_ADDRESS").unwrap();
    let body: &'static str = "x".repeat(bytes).leak();
    let router = Router::new().fallback(move || async move {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    });
    axum::serve(TcpListener::bind(address).await.unwrap(), router).await.unwrap();
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn load(accounts: u64, key: &str) -> String {
    format!(
        "wrk.headers['Authorization'] = 'Bearer {key}'
function request()
    return wrk.format('GET', string.format('/v1/accounts/00000000-0000-7000-8000-%012x/entitlements', math.random({accounts})))
end"
    )
}

/// Requests in a second, as many as it takes.
async fn throughput(server: &Server, script: &Path, arguments: &Arguments) -> f64 {
    let out = Command::new("wrk")
        .args([
            "-t",
            "1",
            "-c",
            &arguments.connections.to_string(),
            "-d",
            &format!("{}s", arguments.seconds),
            "-s",
        ])
        .arg(script)
        .arg(format!("http://{}", server.address))
        .output()
        .await
        .expect("wrk is needed: apt-get install wrk");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let line = text.lines().find(|line| line.starts_with("Requests/sec:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long answers take at `rate` requests a second in all: counted from when each was due, so that one that waits behind
/// a slow one counts its waiting.
async fn paced(server: &Server, rate: f64, arguments: &Arguments, key: &str) -> (f64, Vec<Duration>) {
    const CONNECTIONS: u32 = 16;
    let gap = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let (begun, span) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let callers = (0..CONNECTIONS).map(|caller| {
        let (address, accounts, key) = (server.address, arguments.accounts, key.to_owned());
        tokio::spawn(async move {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.set_nodelay(true).unwrap();
            let mut waits = Vec::new();
            let mut due = begun + gap.mul_f64(f64::from(caller) / f64::from(CONNECTIONS));
            while due.duration_since(begun) < span {
                // The timer's grain is a millisecond: what is due within it is sent at once.
                if due.saturating_duration_since(Instant::now()) > Duration::from_millis(1) {
                    tokio::time::sleep_until(due).await;
                }
                let begun = due.min(Instant::now());
                let answer = exchange(&mut connection, &request(fastrand::u64(1..=accounts), &key)).await;
                assert!(answer.starts_with(b"HTTP/1.1 200"));
                waits.push(begun.elapsed());
                due += gap;
            }
            waits
        })
    });
    let waits: Vec<_> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    (waits.len() as f64 / begun.elapsed().as_secs_f64(), waits)
}

fn request(account: u64, key: &str) -> Vec<u8> {
    format!(
        "GET /v1/accounts/00000000-0000-7000-8000-{account:012x}/entitlements HTTP/1.1\r\nHost: dues\r\n\
         Authorization: Bearer {key}\r\n\r\n"
    )
    .into_bytes()
}

/// Sends `request` and reads its whole answer.
async fn exchange(connection: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    connection.write_all(request).await.unwrap();
    let (mut answer, mut chunk) = (Vec::with_capacity(2_048), [0_u8; 4_096]);
    loop {
        let read = connection.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the server has hung up");
        answer.extend_from_slice(&chunk[..read]);
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if answer.len() >= end + 4 + length.trim().parse::<usize>().unwrap() {
            return answer;
        }
    }
}
