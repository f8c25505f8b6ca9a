//! Limits on connections: how many there are, in all and from one address, and times: on sending a request head, on idling,
//! on leaving an answer unread.
//!
//! Times are kept by the socket itself, under TLS and under both versions of HTTP, because that is the one place all three limits
//! can be seen from. A connection at its limit fails as if the peer had gone. What cannot be seen from here is an
//! HTTP/2 client that reads the socket but not its answers: see [`sending`](crate::serve::sending).
//!
//! Two habits of clients are seen here as well. One that begins requests and takes them back, over and over, loses its
//! connection (under HTTP/2 that costs it nothing, and the server the work that it began). And one that is refused while it
//! still sends its body gets the time to read why: closing a socket with bytes unread makes the system throw away the answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::{Request, Version};
use axum_server::accept::Accept;
use axum_server::tls_rustls::RustlsAcceptor;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use crate::serve::client::{Client, ClientCertificate};
use crate::serve::limits::{ClientKey, Place, Share, Tallies, Tally};
use crate::serve::metrics::Metrics;
use crate::serve::options::Limits;
use crate::serve::reload::Live;
use crate::serve::router::App;

/// What a connection's socket and its requests know of one another.
#[derive(Debug, Default)]
struct Activity {
    /// Requests begun.
    begun: AtomicU64,
    /// Requests whose answer is gone.
    done: AtomicU64,
    /// Whether they come over HTTP/2, where answers go out from other tasks than the one that reads.
    http2: AtomicBool,
    /// Requests whose handling came to an answer.
    answered: AtomicU64,
    /// Requests that were taken back before.
    taken_back: AtomicU64,
    /// Whether what is still being sent is read and thrown away before the socket is closed.
    lingers: AtomicBool,
    /// The task that reads.
    reader: AtomicWaker,
}

/// Requests that a connection may take back, beyond as many as it waits for.
const MAX_TAKEN_BACK: u64 = 200;
/// How long a socket is read from after its last answer, at most, for a client that still sends.
const LINGER_FOR: Duration = Duration::from_secs(2);
/// How many bytes of it.
const LINGER_BYTES: usize = 16 << 20;

impl Activity {
    fn takes_back_too_much(&self) -> bool {
        let taken_back = self.taken_back.load(Ordering::Relaxed);
        taken_back > MAX_TAKEN_BACK.saturating_add(self.answered.load(Ordering::Relaxed))
    }
}

/// A request whose answer is not yet gone. Dropping it says that it is.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    /// The client is still sending what nobody will read.
    pub(super) fn linger(&self) {
        self.0.lingers.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Release);
        // The wait for the next request begins now, even if the socket stays silent.
        self.0.reader.wake();
    }
}

/// Accepts connections: no Nagle delay, and the limits above.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    live: Arc<Live>,
    most: Most,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Most {
    /// As the limits say, but no more than this.
    Clients(usize),
    /// A few: monitoring needs no more, and must get in when clients have taken all.
    Admin,
}

/// Connections of the admin listener.
const MAX_ADMIN_CONNECTIONS: usize = 64;

impl Guard {
    pub(super) fn new(live: Arc<Live>, most: Most) -> Self {
        Self { live, most }
    }

    fn admit<S>(&self, stream: TcpStream, service: S) -> io::Result<(GuardedStream<TcpStream>, Counted<S>)> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?.ip();
        let app = self.live.app();
        let (limits, lasting) = (&app.options.limits, &app.lasting);
        let place = match self.most {
            Most::Clients(possible) => {
                let mut in_all = Tally::share(&lasting.connections);
                if !in_all.grow_to(1, limits.connections.min(possible) as u64) {
                    return Err(refused(&app, "too_many"));
                }
                let of_address = if app.options.trusts(peer) {
                    None
                } else {
                    let key = ClientKey::of_address(peer);
                    let taken = Tallies::take(&lasting.addresses, key, limits.connections_per_address);
                    Some(taken.ok_or_else(|| refused(&app, "too_many_of_address"))?)
                };
                lasting.metrics.count("taxiway_connections_total", &[], 1);
                Seat { _in_all: in_all, _of_address: of_address }
            }
            Most::Admin => {
                let mut in_all = Tally::share(&lasting.admin_connections);
                if !in_all.grow_to(1, MAX_ADMIN_CONNECTIONS as u64) {
                    return Err(refused(&app, "too_many_admin"));
                }
                Seat { _in_all: in_all, _of_address: None }
            }
        };
        let activity = Arc::new(Activity::default());
        let mut guarded = GuardedStream::new(stream, Arc::clone(&activity), limits.clone());
        guarded.seat = Some(place);
        Ok((guarded, Counted { service, activity, client: Client::of_peer(peer) }))
    }
}

/// Counted, and logged where debugging asks for it: a flood of connections must not become one of the log.
fn refused(app: &App, reason: &'static str) -> io::Error {
    app.lasting.metrics.count("taxiway_connections_refused_total", &[("reason", reason)], 1);
    tracing::debug!(reason, "connection refused");
    io::ErrorKind::QuotaExceeded.into()
}

/// A connection's place among all.
#[derive(Debug)]
struct Seat {
    _in_all: Share,
    _of_address: Option<Place<ClientKey>>,
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = GuardedStream<TcpStream>;
    type Service = Counted<S>;
    type Future = std::future::Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        std::future::ready(self.admit(stream, service))
    }
}

/// Puts what the client's certificate says beside its address.
#[derive(Clone)]
pub(super) struct Recognising {
    inner: RustlsAcceptor<Guard>,
    metrics: Arc<Metrics>,
}

impl Recognising {
    pub(super) fn new(inner: RustlsAcceptor<Guard>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Recognising {
    type Stream = <RustlsAcceptor<Guard> as Accept<TcpStream, S>>::Stream;
    type Service = Counted<S>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let shaken = self.inner.accept(stream, service);
        let metrics = Arc::clone(&self.metrics);
        Box::pin(async move {
            let (stream, mut counted) = shaken.await.inspect_err(|error| {
                if error.kind() != io::ErrorKind::QuotaExceeded {
                    metrics.count("taxiway_tls_handshake_failures_total", &[], 1);
                    tracing::debug!(%error, "TLS handshake failed");
                }
            })?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            counted.client.certificate = shown.map(|certificate| Arc::new(ClientCertificate::of_der(certificate)));
            Ok((stream, counted))
        })
    }
}

/// Marks every request with an [`InFlight`] and its [`Client`].
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    service: S,
    activity: Arc<Activity>,
    client: Client,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.activity.http2.store(request.version() == Version::HTTP_2, Ordering::Relaxed);
        self.activity.begun.fetch_add(1, Ordering::Release);
        request.extensions_mut().insert(Arc::new(InFlight(Arc::clone(&self.activity))));
        request.extensions_mut().insert(self.client.clone());
        let work = self.service.call(request);
        Answering { work: Box::pin(work), activity: Arc::clone(&self.activity), answered: false }
    }
}

/// The work on a request; dropped before its end, it was taken back.
#[derive(Debug)]
pub(super) struct Answering<F> {
    work: Pin<Box<F>>,
    activity: Arc<Activity>,
    answered: bool,
}

impl<F: Future> Future for Answering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.work.as_mut().poll(cx);
        self.answered |= polled.is_ready();
        polled
    }
}

impl<F> Drop for Answering<F> {
    fn drop(&mut self) {
        let count = if self.answered { &self.activity.answered } else { &self.activity.taken_back };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that fails when its peer takes too long.
#[derive(Debug)]
pub(super) struct GuardedStream<T> {
    inner: T,
    activity: Arc<Activity>,
    limits: Limits,
    /// Requests begun when the current wait for a head started.
    waiting_since_request: u64,
    /// When the current wait for a head, or for its rest, ends.
    read_deadline: Option<Instant>,
    /// Whether a head is due: the first one, or one of which a part has come.
    head_begun: bool,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
    seat: Option<Seat>,
}

/// The end of a socket whose peer still sends.
#[derive(Debug)]
struct Lingering {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<T> GuardedStream<T> {
    fn new(inner: T, activity: Arc<Activity>, limits: Limits) -> Self {
        Self {
            inner,
            activity,
            limits,
            waiting_since_request: 0,
            // A new connection owes its first head at once.
            read_deadline: None,
            head_begun: true,
            read_timer: None,
            write_timer: None,
            lingering: None,
            seat: None,
        }
    }

    /// Called when no bytes are there to read: fails once the peer has been waited for long enough.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let begun = self.activity.begun.load(Ordering::Acquire);
        if begun != self.waiting_since_request {
            self.waiting_since_request = begun;
            self.head_begun = false;
            self.read_deadline = None;
        }
        // Before the look at `done`, so that no end of an answer goes unnoticed.
        self.activity.reader.register(cx.waker());
        if begun != self.activity.done.load(Ordering::Acquire) {
            // An answer is on its way: what the peer owes is to read it, which is the write timer's business.
            self.read_deadline = None;
            self.read_timer = None;
            return Poll::Pending;
        }
        let wait = if self.head_begun { self.limits.header_timeout } else { self.limits.idle_timeout };
        let deadline = *self.read_deadline.get_or_insert_with(|| deadline_after(wait));
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| timed_out("no request within the time allowed"))
    }

    /// Bytes came. The first ones of a head start its time; those that follow do not extend it.
    ///
    /// Under HTTP/2 they may as well be a ping or an acknowledgement, so there only the first head has a time of its
    /// own. Those that come in pieces later are left to the idle limit, which no bytes extend.
    fn bytes_came(&mut self) {
        if self.activity.http2.load(Ordering::Relaxed) {
            return;
        }
        let begun = self.activity.begun.load(Ordering::Acquire);
        let awaiting_head = begun == self.activity.done.load(Ordering::Acquire);
        let already_begun = self.head_begun && begun == self.waiting_since_request;
        if awaiting_head && !already_begun {
            self.waiting_since_request = begun;
            self.head_begun = true;
            self.read_deadline = Some(deadline_after(self.limits.header_timeout));
        }
    }

    /// Passes a write's result on; one that makes no headway for too long fails.
    fn watch_write<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.write_timer = None;
            return polled;
        }
        let wait = self.limits.write_timeout;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(deadline_after(wait))));
        timer.as_mut().poll(cx).map(|()| Err(timed_out("answer left unread for too long")))
    }
}

fn deadline_after(wait: Duration) -> Instant {
    Instant::now() + wait
}

fn timed_out(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.takes_back_too_much() {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "too many requests taken back");
            return Poll::Ready(Err(error));
        }
        let filled = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > filled {
                    this.bytes_came();
                }
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_read_deadline(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.watch_write(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.watch_write(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        if !this.activity.lingers.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let lingering = this
            .lingering
            .get_or_insert_with(|| Lingering { until: Box::pin(sleep_until(deadline_after(LINGER_FOR))), bytes: 0 });
        let mut thrown_away = [0; 4096];
        while lingering.bytes < LINGER_BYTES && lingering.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => lingering.bytes += buffer.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}
