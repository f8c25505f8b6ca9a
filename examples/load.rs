//! Many clients at once, some of them very slow: what a TAXII 2.1 server gives each of them, and what it costs the server.
//!
//! ```text
//! cargo run --release --example load -- http://127.0.0.1:9000/threatintel/collections/all/objects/ \
//!     --clients 500 --slow 50 --seconds 60 --limit 1000 --pid $(pgrep -f 'taxiway serve')
//! ```
//! A fast client walks the collection by `next` and begins again at its end; it checks that the dates rise from page to page, so a
//! repeated or disordered page is seen. A slow one asks for a large page and reads one byte a second. The answer is one JSON object.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const ACCEPT: &str = "application/taxii+json;version=2.1";
/// What a slow client asks for: more than any buffer between server and client holds.
const SLOW_LIMIT: u64 = 200_000;

#[derive(Clone, Debug)]
struct Plan {
    url: String,
    clients: usize,
    slow: usize,
    seconds: u64,
    limit: u64,
    pid: Option<u32>,
}

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    pages: u64,
    objects: u64,
    bytes: u64,
    walks: u64,
    /// To the end of each page, microseconds.
    micros: Vec<u64>,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug)]
enum Slow {
    /// Was still being served at the end.
    Alive,
    Cut(u64),
    Refused(String),
}

fn plan() -> Result<Plan, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut plan = Plan { url: String::new(), clients: 500, slow: 50, seconds: 60, limit: 1_000, pid: None };
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).ok_or("a number is missing");
        match argument.as_str() {
            "--clients" => plan.clients = number()? as usize,
            "--slow" => plan.slow = number()? as usize,
            "--seconds" => plan.seconds = number()?,
            "--limit" => plan.limit = number()?,
            "--pid" => plan.pid = Some(number()? as u32),
            url => plan.url = url.to_owned(),
        }
    }
    if plan.url.is_empty() || plan.slow > plan.clients {
        return Err("usage: load URL-OF-OBJECTS [--clients N] [--slow N] [--seconds N] [--limit N] [--pid N]".into());
    }
    Ok(plan)
}

async fn fast(plan: &Plan, until: Instant) -> Seen {
    let mut seen = Seen::default();
    // A client of its own: its own connection, as 500 consumers have.
    let Ok(client) = reqwest::Client::builder().build() else { return seen };
    let mut next: Option<String> = None;
    let mut last = String::new();
    while Instant::now() < until {
        match page(&client, plan, next.take(), &mut last, &mut seen).await {
            Ok(following) => {
                if following.is_none() {
                    seen.walks += 1;
                    last.clear();
                }
                next = following;
            }
            Err(error) => {
                *seen.errors.entry(error.to_string()).or_default() += 1;
                last.clear();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    seen
}

async fn page(
    client: &reqwest::Client,
    plan: &Plan,
    next: Option<String>,
    last: &mut String,
    seen: &mut Seen,
) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
    let limit = plan.limit.to_string();
    let mut query = vec![("limit", limit)];
    query.extend(next.map(|next| ("next", next)));
    let began = Instant::now();
    let answer = client.get(&plan.url).query(&query).header("accept", ACCEPT).send().await?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status().as_u16()).into());
    }
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let dates = (header("x-taxii-date-added-first"), header("x-taxii-date-added-last"));
    let body = answer.bytes().await?;
    seen.micros.push(began.elapsed().as_micros() as u64);
    if let (Some(first), Some(end)) = dates {
        if first <= *last || end < first {
            return Err("dates do not rise".into());
        }
        *last = end;
    }
    let (next, objects) = facts(&body)?;
    seen.pages += 1;
    seen.objects += objects;
    seen.bytes += body.len() as u64;
    Ok(next)
}

/// `next` and the number of objects, without parsing the objects: the load is to be the server's.
fn facts(body: &[u8]) -> Result<(Option<String>, u64), Box<dyn Error + Send + Sync>> {
    let head = String::from_utf8_lossy(&body[..body.len().min(4_096)]);
    let next =
        head.split_once("\"next\":\"").and_then(|(_, rest)| rest.split_once('"')).map(|(next, _)| next.to_owned());
    if !body.trim_ascii_end().ends_with(b"}") {
        return Err("body cut short".into());
    }
    let marker = b"\"spec_version\":";
    let objects = body.windows(marker.len()).filter(|window| window == marker).count() as u64;
    Ok((next, objects))
}

async fn slow(plan: &Plan, until: Instant) -> Slow {
    let read = async {
        let url: reqwest::Url = plan.url.parse()?;
        let host = url.host_str().ok_or("no host")?.to_owned();
        let port = url.port_or_known_default().ok_or("no port")?;
        let address = tokio::net::lookup_host((host.as_str(), port)).await?.next().ok_or("unknown host")?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_recv_buffer_size(4_096)?;
        let mut stream = socket.connect(address).await?;
        let request = format!(
            "GET {}?limit={SLOW_LIMIT} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: {ACCEPT}\r\n\r\n",
            url.path()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = 0;
        let mut start = Vec::new();
        while Instant::now() < until {
            let mut byte = [0];
            match stream.read(&mut byte).await {
                Ok(1) => {
                    bytes += 1;
                    if start.len() < 12 {
                        start.push(byte[0]);
                        if start.len() == 12 && !start.ends_with(b"200") {
                            return Ok(Slow::Refused(String::from_utf8_lossy(&start).into_owned()));
                        }
                    }
                }
                _ => return Ok(Slow::Cut(bytes)),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(Slow::Alive)
    };
    read.await.unwrap_or_else(|error| Slow::Refused(error.to_string()))
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: Option<u32>, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default() as f64 / 1e3
}

fn main() -> Result<(), Box<dyn Error>> {
    let plan = plan()?;
    // Fails only where there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let began = Instant::now();
        let until = began + Duration::from_secs(plan.seconds);
        let (mut fast_ones, mut slow_ones) = (Vec::new(), Vec::new());
        for number in 0..plan.clients {
            let plan = plan.clone();
            if number < plan.slow {
                slow_ones.push(tokio::spawn(async move { slow(&plan, until).await }));
            } else {
                fast_ones.push(tokio::spawn(async move { fast(&plan, until).await }));
            }
        }
        let mut all = Seen::default();
        let mut pages_each = Vec::new();
        for client in fast_ones {
            let Ok(seen) = client.await else { continue };
            pages_each.push(seen.pages);
            all.pages += seen.pages;
            all.objects += seen.objects;
            all.bytes += seen.bytes;
            all.walks += seen.walks;
            all.micros.extend(seen.micros);
            for (error, count) in seen.errors {
                *all.errors.entry(error).or_default() += count;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let mut slow_fates: BTreeMap<String, u64> = BTreeMap::new();
        for client in slow_ones {
            let fate = match client.await {
                Ok(Slow::Alive) => "being served".to_owned(),
                Ok(Slow::Cut(bytes)) => format!("cut after {bytes} bytes"),
                Ok(Slow::Refused(why)) => format!("refused: {why}"),
                Err(error) => error.to_string(),
            };
            *slow_fates.entry(fate).or_default() += 1;
        }
        all.micros.sort_unstable();
        pages_each.sort_unstable();
        json!({
            "clients": plan.clients, "slow": plan.slow, "limit": plan.limit, "seconds": seconds,
            "pages": all.pages, "objects": all.objects, "walks": all.walks,
            "pages_per_s": all.pages as f64 / seconds, "objects_per_s": all.objects as f64 / seconds,
            "mib_per_s": all.bytes as f64 / seconds / f64::from(1 << 20),
            "page_ms": { "p50": percentile(&all.micros, 0.5), "p99": percentile(&all.micros, 0.99),
                         "max": percentile(&all.micros, 1.0) },
            "pages_of_a_client": { "least": pages_each.first(), "most": pages_each.last() },
            "errors": all.errors, "slow_ones": slow_fates,
            "server_kib": { "peak": memory(plan.pid, "VmHWM"), "now": memory(plan.pid, "VmRSS") },
        })
    });
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &report)?;
    std::io::Write::write_all(&mut out, b"\n")?;
    Ok(())
}
