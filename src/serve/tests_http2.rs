//! HTTP/2 clients that misbehave, frame by frame: no client library would do what they do.

use std::io;
use std::time::{Duration, Instant};

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::serve::tests::{BASE, Running, client, run, server_with};

/// So long that only what never happens takes longer.
const NEVER: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// One connection.
struct Wire(TcpStream);

impl Wire {
    /// Connects, and grants every stream `window` bytes.
    async fn open(running: &Running, window: u32) -> Self {
        let mut stream = TcpStream::connect(running.url.replace("http://", "")).await.expect("connects");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sends");
        let mut wire = Self(stream);
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
        wire.send(SETTINGS, 0, 0, &setting).await;
        wire
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).await.expect("sends");
    }

    async fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).await
    }

    /// `GET path` as HPACK: two entries of the static table, then two literals.
    async fn get(&mut self, stream: u32, path: &str) {
        self.try_get(stream, path).await.expect("sends");
    }

    async fn try_get(&mut self, stream: u32, path: &str) -> io::Result<()> {
        let length = u8::try_from(path.len()).ok().filter(|length| *length < 127).expect("short");
        let block = [&[0x82, 0x86, 0x04, length][..], path.as_bytes(), &[0x01, 1, b'x']].concat();
        self.try_send(HEADERS, END_STREAM | END_HEADERS, stream, &block).await
    }

    /// The next frame; `None` once the server has hung up.
    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads up to the first frame of this kind.
    async fn frame_of(&mut self, kind: u8) -> Frame {
        let found = async {
            loop {
                let frame = self.frame().await.expect("the connection lives");
                if frame.kind == kind {
                    return frame;
                }
            }
        };
        timeout(NEVER, found).await.expect("the frame comes")
    }

    /// Reads until the server hangs up.
    async fn closed(&mut self) {
        timeout(NEVER, async { while self.frame().await.is_some() {} }).await.expect("the server hangs up");
    }
}

fn http2(path: &str) -> Request<HttpBody> {
    let request = Request::get(path).version(Version::HTTP_2);
    request.body(HttpBody::empty()).expect("a request")
}

#[tokio::test]
async fn a_body_nobody_asks_for_is_given_up_with_its_permit() {
    for asked in [false, true] {
        let server = server_with(false, |options| {
            options.limits.concurrent_requests = 1;
            options.limits.write_timeout = Duration::from_millis(50);
        });
        let request = http2(&format!("{BASE}/objects/?next=endless"));
        let response = tower::ServiceExt::oneshot(server.router.clone(), request).await.expect("infallible");
        let mut body = response.into_body();
        if asked {
            assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        }
        assert_eq!(server.get("/taxii2/").await.status, StatusCode::SERVICE_UNAVAILABLE);
        timeout(NEVER, server.feed.gone.notified()).await.expect("the body was given up");
        assert_eq!(server.get("/taxii2/").await.status, StatusCode::OK);
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()), "what is left of it does not look whole");
    }
}

#[tokio::test]
async fn answers_that_are_whole_hold_no_permit() {
    let cases = [
        (true, "/taxii2/".to_owned(), StatusCode::UNAUTHORIZED),
        (false, "/nowhere/".to_owned(), StatusCode::NOT_FOUND),
        (false, format!("{BASE}/objects/?limit=0"), StatusCode::BAD_REQUEST),
        (false, format!("{BASE}/objects/"), StatusCode::OK),
        (false, format!("{BASE}/objects/?next=late"), StatusCode::OK),
    ];
    for (closed, path, status) in cases {
        let server = server_with(closed, |options| options.limits.concurrent_requests = 1);
        let request = || tower::ServiceExt::oneshot(server.router.clone(), http2(&path));
        let unread = request().await.expect("infallible");
        let next = request().await.expect("infallible").status();
        let holds = path.ends_with("late");
        assert_eq!(unread.status(), status, "{path}");
        assert_eq!(next, if holds { StatusCode::SERVICE_UNAVAILABLE } else { status }, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_grants_no_window_loses_its_answers_and_then_its_connection() {
    let running = run(|options| {
        options.limits.concurrent_requests = 1;
        options.limits.write_timeout = Duration::from_millis(50);
        options.limits.idle_timeout = Duration::from_millis(200);
    });
    // A page, and an answer so small that it holds nothing but the connection.
    for (path, endless) in [(format!("{BASE}/objects/?next=endless"), true), ("/nowhere/".to_owned(), false)] {
        let mut wire = Wire::open(&running, 0).await;
        wire.get(1, &path).await;
        wire.frame_of(HEADERS).await;
        if endless {
            timeout(NEVER, running.server.feed.gone.notified()).await.expect("the body was given up");
            assert_eq!(running.server.get("/taxii2/").await.status, StatusCode::OK, "its permit is free");
        }
        wire.closed().await;
    }
}

#[tokio::test]
async fn an_answer_read_too_late_is_reset() {
    let running = run(|options| options.limits.write_timeout = Duration::from_millis(50));
    let mut wire = Wire::open(&running, 0).await;
    wire.get(1, &format!("{BASE}/objects/?next=endless")).await;
    timeout(NEVER, running.server.feed.gone.notified()).await.expect("the body was given up");
    for stream in [0, 1] {
        wire.send(WINDOW_UPDATE, 0, stream, &1_000_000_u32.to_be_bytes()).await;
    }
    assert_eq!(wire.frame_of(RST_STREAM).await.stream, 1);
    // The connection serves on.
    wire.get(3, "/nowhere/").await;
    assert_eq!(wire.frame_of(HEADERS).await.stream, 3);
}

#[tokio::test]
async fn streams_of_a_connection_are_limited() {
    for (concurrent_requests, expected) in [(256, 64_u32), (1, 8), (100_000, 100)] {
        let running = run(|options| options.limits.concurrent_requests = concurrent_requests);
        let settings = Wire::open(&running, 0).await.frame_of(SETTINGS).await.payload;
        let limit = settings.chunks(6).find(|setting| setting[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes());
        assert_eq!(limit.map(|setting| &setting[2..]), Some(&expected.to_be_bytes()[..]));
    }
}

#[tokio::test]
async fn what_is_no_request_does_not_shorten_the_idle_time() {
    let idle_timeout = Duration::from_millis(750);
    let running = run(|options| {
        options.limits.header_timeout = Duration::from_millis(250);
        options.limits.idle_timeout = idle_timeout;
    });
    let cases: [(u8, u8, u32, &[u8]); 3] =
        [(SETTINGS, ACK, 0, &[]), (PING, 0, 0, &[7; 8]), (WINDOW_UPDATE, 0, 0, &1000_u32.to_be_bytes())];
    let running = &running;
    let tried = cases.map(|(kind, flags, stream, payload)| async move {
        let mut wire = Wire::open(running, 65_535).await;
        let started = Instant::now();
        wire.get(1, "/nowhere/").await;
        wire.frame_of(DATA).await;
        wire.send(kind, flags, stream, payload).await;
        wire.closed().await;
        assert!(started.elapsed() >= idle_timeout, "{kind}: {:?}", started.elapsed());
    });
    futures::future::join_all(tried).await;
}

#[tokio::test]
async fn pings_do_not_keep_a_connection() {
    let running = run(|options| options.limits.idle_timeout = Duration::from_millis(200));
    let mut wire = Wire::open(&running, 65_535).await;
    wire.get(1, "/nowhere/").await;
    let ended = async {
        while wire.try_send(PING, 0, 0, &[7; 8]).await.is_ok() {
            if wire.frame().await.is_none() {
                break;
            }
        }
    };
    timeout(NEVER, ended).await.expect("the server hangs up");
}

#[tokio::test]
async fn a_new_connection_owes_its_first_head() {
    let running = run(|options| {
        options.limits.header_timeout = Duration::from_millis(100);
        options.limits.idle_timeout = Duration::from_secs(3600);
    });
    Wire::open(&running, 65_535).await.closed().await;
}

#[tokio::test]
async fn requests_taken_back_over_and_over_cost_the_connection() {
    let running = run(|options| options.limits.concurrent_requests = 64);
    let client = client().build().expect("a client");
    let url = format!("{}/taxii2/", running.url);
    // Requests that would take for ever, one by one or many at a time, each taken back at once.
    for at_a_time in [1, 8] {
        let mut wire = Wire::open(&running, 65_535).await;
        let mut stream = 1;
        let flood = async {
            loop {
                let first = stream;
                for _ in 0..at_a_time {
                    if wire.try_get(stream, &format!("{BASE}/objects/?next=hang")).await.is_err() {
                        return;
                    }
                    stream += 2;
                }
                let code = 8_u32.to_be_bytes();
                let mut ended = false;
                for reset in (first..stream).step_by(2) {
                    ended |= wire.try_send(RST_STREAM, 0, reset, &code).await.is_err();
                }
                // What the server sees is what it must bear: each round trip it has seen all of them.
                ended |= wire.try_send(PING, 0, 0, &[0; 8]).await.is_err();
                while !ended {
                    match wire.frame().await {
                        Some(frame) if frame.kind == PING => break,
                        Some(_) => {}
                        None => ended = true,
                    }
                }
                if ended {
                    return;
                }
                assert!(stream < 20_000, "the server bears it");
            }
        };
        let others = async {
            loop {
                let answer = client.get(&url).send().await.expect("an answer");
                assert_eq!(answer.status(), 200, "others are served meanwhile");
            }
        };
        tokio::select! {
            flooded = timeout(NEVER, flood) => flooded.expect("the server hangs up"),
            () = others => {}
        }
        let answer = client.get(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}
