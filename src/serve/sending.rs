//! An answer's body on its way out: counted for the access log, and taken back from a client that leaves it unread.
//!
//! Under HTTP/1 a client that does not read stops the socket, and the socket's own limit ends the connection. Under
//! HTTP/2 it may as well give its streams no window: then nothing is ever written, and nobody asks the body for more.
//! So there every body has a watch that takes it away, and with it all that the request holds, whoever else keeps the
//! shell.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::serve::connection::InFlight;
use crate::serve::limits::Held;
use crate::serve::observe::Record;

/// Most bytes that an HTTP/2 stream gets at once. Small, because a stream whose client reads nothing keeps what it got
/// as long as the connection lives, and because a slow reader is seen to read once per piece.
const PIECE_BYTES: usize = 16 * 1024;

/// What a request holds until its answer is gone.
pub(super) struct Load {
    body: Body,
    record: Record,
    _held: Option<Held>,
    _in_flight: Option<Arc<InFlight>>,
    /// What was taken from the body and not yet handed on.
    rest: Bytes,
    /// Since when the next step is the client's; `None` while the body has nothing to hand out.
    unread_since: Option<Instant>,
}

impl Load {
    pub(super) fn new(body: Body, record: Record, held: Option<Held>, in_flight: Option<Arc<InFlight>>) -> Self {
        let unread_since = Some(Instant::now());
        Self { body, record, _held: held, _in_flight: in_flight, rest: Bytes::new(), unread_since }
    }

    /// The next frame, not longer than `most` bytes.
    fn poll(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.poll_uncounted(cx, most);
        self.unread_since = polled.is_ready().then(Instant::now);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.record.complete |= self.is_end();
            }
            Poll::Ready(Some(Err(error))) => self.record.cut_short(error),
            Poll::Ready(None) => self.record.complete = true,
            Poll::Pending => {}
        }
        polled
    }

    fn poll_uncounted(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let data = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            };
            if data.len() <= most {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.rest = data;
        }
        // A copy: a piece that shares the buffer would keep all of it.
        let piece = self.rest.split_to(most.min(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn is_end(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }

    fn give_up(mut self) {
        self.record.complete = false;
        tracing::debug!(request_id = self.record.id(), "answer left unread for too long, given up");
    }
}

/// The shell around a [`Load`]. Dropped when the answer is sent or the client has gone, and the load with it.
pub(super) struct Sending {
    load: Arc<Mutex<Option<Load>>>,
    most: usize,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Sending {
    /// Paced by the socket.
    pub(super) fn unwatched(load: Load) -> Self {
        Self { load: Arc::new(Mutex::new(Some(load))), most: usize::MAX, _watch: None }
    }

    /// Given up once it was left unread for `patience`.
    pub(super) fn watched(load: Load, patience: Duration) -> Self {
        if load.is_end() {
            return Self::unwatched(load);
        }
        let load = Arc::new(Mutex::new(Some(load)));
        let watch = AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&load), patience)));
        Self { load, most: PIECE_BYTES, _watch: Some(watch) }
    }
}

/// Takes the load away once it was left unread for `patience`.
async fn watch(load: Arc<Mutex<Option<Load>>>, patience: Duration) {
    let mut next = Instant::now() + patience;
    loop {
        sleep_until(next).await;
        let now = Instant::now();
        next = now + patience;
        // One that is locked is being read at this moment.
        let Some(mut place) = load.try_lock() else { continue };
        let Some(since) = place.as_ref().and_then(|load| load.unread_since) else { continue };
        if since + patience > now {
            next = since + patience;
        } else if let Some(left) = place.take() {
            return left.give_up();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // At once: the watch lets go of its share only when its task is next looked at.
        drop(self.load.lock().take());
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.load.lock().as_mut() {
            Some(load) => load.poll(cx, self.most),
            None => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "answer left unread for too long");
                Poll::Ready(Some(Err(axum::Error::new(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.load.lock().as_ref().is_some_and(Load::is_end)
    }

    fn size_hint(&self) -> SizeHint {
        self.load.lock().as_ref().map_or_else(SizeHint::default, Load::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::extract::Request;
    use futures::StreamExt;
    use http_body_util::BodyExt;

    use super::*;
    use crate::serve::client::Client;

    /// A body of these pieces that does not end.
    fn load(pieces: Vec<Bytes>) -> Load {
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, io::Error>));
        let body = Body::from_stream(pieces.chain(futures::stream::pending()));
        let (request, client) = (Request::new(Body::empty()), Client::of_peer(Ipv4Addr::LOCALHOST.into()));
        Load::new(body, Record::new(&Arc::default(), &request, "".into(), client), None, None)
    }

    #[tokio::test]
    async fn large_pieces_are_cut_and_small_ones_are_not_copied() {
        let large: Bytes = (0..=255_u8).cycle().take(2 * PIECE_BYTES + 1).collect();
        let small = Bytes::from_static(b"small");
        let mut sending = Sending::watched(load(vec![large.clone(), small.clone()]), Duration::from_secs(60));
        let mut pieces = Vec::new();
        for _ in 0..4 {
            let frame = sending.frame().await.expect("a frame").expect("no error");
            pieces.push(frame.into_data().expect("data"));
        }
        let lengths: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [PIECE_BYTES, PIECE_BYTES, 1, small.len()]);
        assert_eq!(pieces[..3].concat(), large);
        assert_eq!(pieces[3].as_ptr(), small.as_ptr());
    }

    #[tokio::test]
    async fn the_client_owes_nothing_while_the_server_does() {
        let mut sending = Sending::unwatched(load(vec![Bytes::from_static(b"x")]));
        let client_owes = |sending: &Sending| sending.load.lock().as_ref().map(|load| load.unread_since.is_some());
        assert_eq!(client_owes(&sending), Some(true), "to ask for the body at all");
        assert!(sending.frame().await.is_some());
        assert_eq!(client_owes(&sending), Some(true), "to read what it got");
        assert!(futures::poll!(sending.frame()).is_pending());
        assert_eq!(client_owes(&sending), Some(false));
    }
}
