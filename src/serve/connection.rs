//! Time limits on connections: on sending a request head, on idling, on leaving an answer unread.
//!
//! Kept by the socket itself, under TLS and under both versions of HTTP, because that is the one place all three limits
//! can be seen from. A connection at its limit fails as if the peer had gone. What cannot be seen from here is an
//! HTTP/2 client that reads the socket but not its answers: see [`sending`](crate::serve::sending).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Version};
use axum_server::accept::Accept;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use crate::serve::options::Limits;

/// What a connection's socket and its requests know of one another.
#[derive(Debug, Default)]
struct Activity {
    /// Requests begun.
    begun: AtomicU64,
    /// Requests whose answer is gone.
    done: AtomicU64,
    /// Whether they come over HTTP/2, where answers go out from other tasks than the one that reads.
    http2: AtomicBool,
    /// The task that reads.
    reader: AtomicWaker,
}

/// A request whose answer is not yet gone. Dropping it says that it is.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Release);
        if self.0.http2.load(Ordering::Relaxed) {
            // The wait for the next request begins now, even if the socket stays silent.
            self.0.reader.wake();
        }
    }
}

/// Accepts connections: no Nagle delay, and the limits above.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    limits: Limits,
}

impl Guard {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone() }
    }
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = GuardedStream<TcpStream>;
    type Service = Counted<S>;
    type Future = std::future::Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let activity = Arc::new(Activity::default());
        let guarded = GuardedStream::new(stream, Arc::clone(&activity), self.limits.clone());
        let accepted = guarded.inner.set_nodelay(true);
        std::future::ready(accepted.map(|()| (guarded, Counted { service, activity })))
    }
}

/// Marks every request with an [`InFlight`].
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        self.activity.http2.store(request.version() == Version::HTTP_2, Ordering::Relaxed);
        self.activity.begun.fetch_add(1, Ordering::Release);
        request.extensions_mut().insert(Arc::new(InFlight(Arc::clone(&self.activity))));
        self.service.call(request)
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

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedStream<T> {
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
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
