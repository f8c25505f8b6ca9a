//! The client against servers of every kind of bad behaviour, on loopback.

mod http;
mod taxii1;
mod taxii2;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::source::{Client, Collection, Endpoint, Options, Page, Place, SourceError};

/// What a server was asked.
#[derive(Clone, Debug)]
struct Asked {
    #[expect(dead_code, reason = "shown by failing tests")]
    method: String,
    /// Path and query as sent.
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The path without its query.
    fn place(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    fn query(&self, name: &str) -> Option<String> {
        let query = self.path.split_once('?')?.1;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// What it answers.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How much of the body is really sent.
    sent: usize,
    has_length: bool,
}

impl Reply {
    fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
        Reply { status, headers, sent: body.len(), body, has_length: true }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn cut(mut self, sent: usize, has_length: bool) -> Self {
        (self.sent, self.has_length) = (sent, has_length);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Some\r\nConnection: close\r\n", self.status);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if self.has_length {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        [head.as_bytes(), b"\r\n", &self.body[..self.sent]].concat()
    }
}

/// A server on a free port for as long as this lives.
#[derive(Debug)]
struct Served {
    url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    /// `answer` gets the request and how many came before it.
    async fn new(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = Arc::clone(&asked);
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move { talk(stream, &log, &*answer).await });
            }
        });
        Served { url, asked, task }
    }

    fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn talk(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &(dyn Fn(&Asked, usize) -> Reply + Send + Sync)) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    let asked = Asked { method, path, headers, body };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let _ = stream.write_all(&answer(&asked, before).bytes()).await;
    let _ = stream.shutdown().await;
}

fn quick() -> Options {
    Options {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_secs(2),
        page_size: 10,
        ..Options::default()
    }
}

async fn connected(url: Url) -> Result<Client, SourceError> {
    Client::connect(Endpoint::new(url), quick()).await
}

/// All pages up to the first error.
async fn pages(client: &Client, collection: &Collection, from: Place) -> (Vec<Page>, Option<SourceError>) {
    let mut pages = client.pages(collection, from).unwrap();
    let mut taken = Vec::new();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => taken.push(page),
            Err(error) => return (taken, Some(error)),
        }
        assert!(taken.len() < 2_000, "a walk without an end");
    }
    (taken, None)
}

/// The texts of all objects.
fn texts(pages: &[Page]) -> Vec<String> {
    pages.iter().flat_map(|page| page.objects.iter()).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn warnings(pages: &[Page]) -> String {
    pages.iter().flat_map(|page| page.facts.warnings.clone()).collect::<Vec<_>>().join("\n")
}
