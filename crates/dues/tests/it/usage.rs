//! Usage with real processes: several of them, and killed ones.

use std::{io::Write as _, net::TcpStream, path::Path};

use dues_tests::{Api, Database, Ledger, SOON, eventually};
use futures::future::join_all;
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Dues, Signal, run, scratch};

const EVENTS: &str = "SELECT count(*) FROM usage.events";
const USED: &str = "SELECT coalesce(sum(requests_used), 0)::bigint FROM usage.windows";

/// Processes of `dues api` on one database, each in a directory of its own.
struct Platform {
    database: Database,
    key: String,
}

/// One of them.
struct Process {
    dir: TempDir,
    port: u16,
    dues: Dues,
    api: Api,
}

impl Platform {
    async fn new() -> Self {
        let (database, dir) = (Database::fresh().await, scratch());
        let environment = [("DUES__DATABASE__URL", database.url().expose_secret())];
        assert_eq!(run(dir.path(), &["migrate"], &environment).await.code, Some(0));
        let scopes = ["accounts:write", "usage:write", "usage:read", "entitlements:read"];
        let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
        let args: Vec<_> = ["key", "create", "--name", "test"].into_iter().chain(scopes).collect();
        let key = run(dir.path(), &args, &environment).await;
        assert_eq!(key.code, Some(0), "{key:?}");
        Self { key: key.stdout.trim().to_owned(), database }
    }

    async fn start(&self) -> Process {
        let port = dues_embedded::free_port().unwrap();
        let dir = scratch();
        let dues = self.dues(dir.path(), port).await;
        Process { dir, port, dues, api: Api::new(&format!("http://127.0.0.1:{port}"), &self.key) }
    }

    async fn dues(&self, dir: &Path, port: u16) -> Dues {
        let listen = format!("127.0.0.1:{port}");
        let environment =
            [("DUES__DATABASE__URL", self.database.url().expose_secret()), ("DUES__SERVER__LISTEN", &listen)];
        let dues = Dues::start(dir, &["api"], &environment);
        eventually(SOON, "it listens", || async {
            TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("{error}\n{}", dues.printed()))
        })
        .await;
        dues
    }

    /// Kills a process and starts another one in its place.
    async fn kill_and_start_again(&self, process: Process) -> Process {
        let Process { dir, port, dues, api } = process;
        dues.signal(Signal::SIGKILL);
        dues.ended().await;
        let dues = self.dues(dir.path(), port).await;
        // A client that knows nothing of the connections before.
        let api = Api::new(&format!("http://127.0.0.1:{port}"), api.key());
        Process { dir, port, dues, api }
    }
}

fn event(number: usize) -> Value {
    json!({ "external_id": "user-42", "event_id": format!("e{number}"), "requests": 1, "tokens": 3 })
}

/// Sends an event; `None` where no answer came.
async fn send(api: &Api, number: usize) -> Option<(u16, bool)> {
    let request = api.request(Method::POST, "/v1/usage").bearer_auth(api.key()).json(&event(number));
    let answer = request.send().await.ok()?;
    let replayed = answer.headers().contains_key("idempotent-replayed");
    let status = answer.status().as_u16();
    answer.text().await.ok()?;
    Some((status, replayed))
}

#[tokio::test]
async fn an_event_whose_answer_was_lost_with_the_process_is_counted_once() {
    let platform = Platform::new().await;
    let process = platform.start().await;
    process.api.account("user-42").await;
    let ledger = Ledger::new(&platform.database);
    // By hand, and nobody reads the answer.
    let body = event(1).to_string();
    let mut connection = TcpStream::connect(("127.0.0.1", process.port)).unwrap();
    write!(
        connection,
        "POST /v1/usage HTTP/1.1\r\nHost: dues\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        platform.key,
        body.len()
    )
    .unwrap();
    eventually(SOON, "it is committed", || async {
        if ledger.count(EVENTS).await == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let process = platform.kill_and_start_again(process).await;
    drop(connection);
    assert_eq!(send(&process.api, 1).await, Some((200, true)));
    assert_eq!((ledger.count(EVENTS).await, ledger.count(USED).await), (1, 1));
    process.dues.signal(Signal::SIGTERM);
    assert_eq!(process.dues.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_and_nothing_is_counted_twice_whenever_a_process_is_killed() {
    const LIMIT: usize = 100;
    let platform = Platform::new().await;
    let (mut process, beside) = (platform.start().await, platform.start().await);
    process.api.account("user-42").await;
    let ledger = Ledger::new(&platform.database);
    let mut answered = [false; LIMIT];
    // Three times in the middle of forty events, of which each is sent to both processes.
    for round in 0..3 {
        let numbers: Vec<_> = (round * 30..round * 30 + 40).collect();
        let before = ledger.count(EVENTS).await;
        let sent = numbers.iter().map(|n| {
            let (one, other, n) = (process.api.clone(), beside.api.clone(), *n);
            async move { (n, tokio::join!(send(&one, n), send(&other, n))) }
        });
        let sent = tokio::spawn(join_all(sent.collect::<Vec<_>>()));
        eventually(SOON, "some are counted", || async {
            if ledger.count(EVENTS).await > before { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        process = platform.kill_and_start_again(process).await;
        for (n, (one, other)) in sent.await.unwrap() {
            let both = [one, other].into_iter().flatten().collect::<Vec<_>>();
            assert!(both.iter().all(|(status, _)| *status == 200), "{n}: {both:?}");
            assert!(both.iter().filter(|(_, replayed)| !replayed).count() <= 1, "{n}: counted twice");
            answered[n] |= !both.is_empty();
        }
    }
    let kept = ledger.count(EVENTS).await;
    assert!(usize::try_from(kept).unwrap() >= answered.iter().filter(|a| **a).count());
    // Whoever got no answer asks again; the quota is used to the last one by exactly one each.
    let again =
        join_all((0..LIMIT + 20).map(|n| send(if n % 2 == 0 { &process.api } else { &beside.api }, n))).await;
    for (n, answer) in again.iter().enumerate() {
        if *answered.get(n).unwrap_or(&false) {
            assert_eq!(*answer, Some((200, true)), "{n} had been answered");
        }
    }
    let counted = again.iter().filter(|answer| answer.is_some_and(|(status, _)| status == 200)).count();
    assert_eq!(counted, LIMIT, "{again:?}");
    let limit = i64::try_from(LIMIT).unwrap();
    assert_eq!((ledger.count(EVENTS).await, ledger.count(USED).await), (limit, limit));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_answers_what_it_has_taken() {
    let platform = Platform::new().await;
    let (process, beside) = (platform.start().await, platform.start().await);
    process.api.account("user-42").await;
    let ledger = Ledger::new(&platform.database);
    let api = process.api.clone();
    let sent = tokio::spawn(async move { join_all((0..90).map(|n| send(&api, n))).await });
    eventually(SOON, "some are counted", || async {
        if ledger.count(EVENTS).await > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    process.dues.signal(Signal::SIGTERM);
    let answers = sent.await.unwrap();
    assert_eq!(process.dues.ended().await.code(), Some(0), "in order");
    let answered: Vec<_> = answers.iter().enumerate().filter(|(_, a)| a.is_some()).map(|(n, _)| n).collect();
    // What came after it had closed its door got no answer; what got one is there, and nothing else.
    assert_eq!(usize::try_from(ledger.count(EVENTS).await).unwrap(), answered.len(), "{answers:?}");
    for n in answered {
        assert_eq!(send(&beside.api, n).await, Some((200, true)));
    }
}
