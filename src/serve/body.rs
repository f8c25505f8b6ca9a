//! Reading the body of a request within its bounds: its size as sent and decompressed, its time, and the memory that all
//! bodies take together.
//!
//! Nothing is believed of what a head says: a `Content-Length` above the limit refuses the request before a byte is read,
//! and one below it reserves nothing. Memory is taken from the common room as the body grows, and goes back when the last
//! clone of the bytes is gone.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use bytes::{Buf, Bytes};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use zstd::stream::write::Decoder as ZstdDecoder;

use crate::serve::error::{ServeError, cut};
use crate::serve::limits::{Share, Tally};
use crate::serve::router::App;

/// What `Content-Encoding` may be.
pub(super) const ENCODINGS: &str = "gzip, deflate, zstd";

/// Compressed bytes that are decompressed at a time: a kilobyte becomes a megabyte at most (RFC 1951), in about a
/// millisecond.
const STEP_BYTES: usize = 1024;
/// Decompressed bytes after which other requests have their turn. A task that Tokio takes its turn from would have gone on for
/// a hundred steps, and several of those bombs at once would hold everybody up.
const TURN_BYTES: usize = 256 << 10;
/// Largest window of zstd: what RFC 9659 allows over HTTP. A larger one would be memory that nobody counts.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Memory taken from the common room at least, whatever the body.
const FIRST_BYTES: u64 = 16 * 1024;

/// The whole body, decompressed as `headers` say. Its memory counts towards `limits.bodies_bytes` until the last clone of
/// it is gone. Errors: larger than `limits.body_bytes`, too slow, cut off, badly compressed, or no room for it now.
pub(super) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, ServeError> {
    read_at_most(app, headers, body, app.options.limits.body_bytes).await
}

/// The same with a limit of its own in the place of `limits.body_bytes`.
pub(super) async fn read_at_most(app: &App, headers: &HeaderMap, body: Body, most: u64) -> Result<Bytes, ServeError> {
    let limits = &app.options.limits;
    let bounds =
        Bounds { bytes: most, room: limits.bodies_bytes, whole: limits.body_timeout, pause: limits.header_timeout };
    read_within(bounds, &app.lasting.bodies, headers, body).await
}

/// Decompressed bytes that may come of one step.
const STEP_OUT_BYTES: u64 = 16 << 20;

/// A body taken piece by piece, for those who are done with a piece before the next: of any length and, as long as it goes on,
/// any duration.
pub(super) struct Pieces {
    body: Body,
    /// `None`: it is over.
    reading: Option<Reading>,
    /// Received and not yet decompressed.
    data: Bytes,
    /// The longest time without a byte.
    pause: Duration,
    give_up: Instant,
}

impl Pieces {
    /// The body as `headers` say it is compressed.
    pub(super) fn new(headers: &HeaderMap, body: Body, pause: Duration) -> Result<Self, ServeError> {
        // What comes of each step is taken out at once, so this is no bound on the whole.
        let bounds = Bounds { bytes: STEP_OUT_BYTES, room: u64::MAX, whole: pause, pause };
        let share = Tally::share(&Arc::default());
        let gathered = Gathered { bytes: Vec::new(), expected: None, bounds, share, refused: None };
        let reading = Some(Reading::of(coding(headers)?, gathered)?);
        Ok(Pieces { body, reading, data: Bytes::new(), pause, give_up: Instant::now() + pause })
    }

    /// Appends what has come; `false` at the end. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, ServeError> {
        let Some(reading) = &mut self.reading else { return Ok(false) };
        if !self.data.has_remaining() {
            let frame = timeout_at(self.give_up, self.body.frame()).await;
            let frame = frame.map_err(|_| ServeError::BodyTooSlow { what: "no byte for long" })?;
            let Some(frame) = frame else {
                if let Some(reading) = self.reading.take() {
                    out.extend_from_slice(&reading.end()?);
                }
                return Ok(false);
            };
            let frame = frame.map_err(|_| ServeError::BodyBroken { reason: "ended before its end".into() })?;
            self.give_up = Instant::now() + self.pause;
            let Ok(data) = frame.into_data() else { return Ok(true) };
            if matches!(reading, Reading::Plain(_)) {
                out.extend_from_slice(&data);
                return Ok(true);
            }
            self.data = data;
        }
        let before = out.len();
        while self.data.has_remaining() && out.len() - before < TURN_BYTES {
            let step = self.data.split_to(STEP_BYTES.min(self.data.len()));
            reading.take(&step)?;
            if let Some(gathered) = reading.gathered_mut() {
                out.append(&mut gathered.bytes);
            }
        }
        Ok(true)
    }
}

/// The limits that matter here.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of one body, as sent and decompressed.
    bytes: u64,
    /// Of all bodies together.
    room: u64,
    /// From the first look at the body to its end.
    whole: Duration,
    /// Between two pieces of it.
    pause: Duration,
}

async fn read_within(
    bounds: Bounds,
    bodies: &Arc<Tally>,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Bytes, ServeError> {
    let too_large = || ServeError::BodyTooLarge { max: bounds.bytes };
    let coding = coding(headers)?;
    let announced = announced(headers).or(body.size_hint().exact());
    if announced.is_some_and(|bytes| bytes > bounds.bytes) {
        return Err(too_large());
    }
    let expected = announced.filter(|_| matches!(coding, Coding::Identity));
    let gathered = Gathered { bytes: Vec::new(), expected, bounds, share: Tally::share(bodies), refused: None };
    let mut reading = Reading::of(coding, gathered)?;
    let end = Instant::now() + bounds.whole;
    let (mut sent, mut turn) = (0_u64, 0);
    loop {
        let next = (Instant::now() + bounds.pause).min(end);
        let what = if next == end { "the whole of it" } else { "no byte for long" };
        let frame = timeout_at(next, body.frame()).await.map_err(|_| ServeError::BodyTooSlow { what })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ServeError::BodyBroken { reason: "ended before its end".into() })?;
        // Trailers say nothing that matters.
        let Ok(mut data) = frame.into_data() else { continue };
        sent = sent.saturating_add(data.len() as u64);
        if sent > bounds.bytes {
            return Err(too_large());
        }
        if let Reading::Plain(gathered) = &mut reading {
            gathered.write_all(&data).map_err(|error| gathered.refusal(&error))?;
            continue;
        }
        while data.has_remaining() {
            let step = data.split_to(STEP_BYTES.min(data.len()));
            reading.take(&step)?;
            let held = reading.gathered().map_or(0, |gathered| gathered.bytes.len());
            if held - turn >= TURN_BYTES {
                turn = held;
                tokio::task::yield_now().await;
            }
        }
    }
    reading.end()
}

/// `Content-Length`, if it can be read; hyper has refused what contradicts itself.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

/// At most one coding: no client needs two, and each would multiply what a few bytes can cost.
fn coding(headers: &HeaderMap) -> Result<Coding, ServeError> {
    let values: Vec<&[u8]> = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.as_bytes()).collect();
    let whole = String::from_utf8_lossy(&values.join(&b","[..])).into_owned();
    let mut found = Coding::Identity;
    for name in whole.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let coding = match name.to_ascii_lowercase().as_str() {
            "identity" => continue,
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            "zstd" => Coding::Zstd,
            _ => return Err(ServeError::BadEncoding { encoding: cut(&whole) }),
        };
        if found != Coding::Identity {
            return Err(ServeError::BadEncoding { encoding: cut(&whole) });
        }
        found = coding;
    }
    Ok(found)
}

/// The body so far.
#[derive(Debug)]
struct Gathered {
    bytes: Vec<u8>,
    /// The length it will have, if that is known.
    expected: Option<u64>,
    bounds: Bounds,
    share: Share,
    /// Why it grows no further.
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
enum Refused {
    TooLarge,
    NoRoom,
}

impl Gathered {
    /// Makes room for `more` bytes: doubled, so that a body of any size is copied a few times at most, but never beyond what
    /// it may become.
    fn grow(&mut self, more: usize) -> Result<(), Refused> {
        let needed = (self.bytes.len() as u64).saturating_add(more as u64);
        if needed > self.bounds.bytes {
            return Err(Refused::TooLarge);
        }
        let held = self.share.taken();
        if needed <= held {
            return Ok(());
        }
        let most = self.expected.unwrap_or(u64::MAX).clamp(needed, self.bounds.bytes.max(needed));
        let wanted = held.saturating_mul(2).max(FIRST_BYTES).clamp(needed, most);
        if !self.share.grow_to(wanted, self.bounds.room) {
            return Err(Refused::NoRoom);
        }
        let additional = usize::try_from(wanted).map_err(|_| Refused::TooLarge)? - self.bytes.len();
        self.bytes.try_reserve_exact(additional).map_err(|_| Refused::NoRoom)
    }

    /// What `error`, from a write into this, comes down to.
    fn refusal(&self, error: &io::Error) -> ServeError {
        match self.refused {
            Some(Refused::TooLarge) => ServeError::BodyTooLarge { max: self.bounds.bytes },
            Some(Refused::NoRoom) => ServeError::Busy { what: "room for request bodies" },
            None => broken(error),
        }
    }

    fn finish(self) -> Bytes {
        Bytes::from_owner(Whole { bytes: self.bytes, _share: self.share })
    }
}

impl Write for Gathered {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Err(refused) = self.grow(data.len()) {
            self.refused = Some(refused);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body and the memory it counts for.
struct Whole {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body on its way through its decoder.
enum Reading {
    Plain(Gathered),
    Gzip(Box<MultiGzDecoder<Gathered>>),
    /// `deflate` is zlib's format (RFC 9110 §8.4.1.2), but some send it bare: the first byte says which it is.
    Undecided(Gathered),
    Zlib(Box<ZlibDecoder<Gathered>>),
    Bare(Box<DeflateDecoder<Gathered>>),
    Zstd(Box<ZstdDecoder<'static, Gathered>>),
    /// Only while it changes from one to another.
    Gone,
}

impl Reading {
    fn of(coding: Coding, gathered: Gathered) -> Result<Self, ServeError> {
        Ok(match coding {
            Coding::Identity => Reading::Plain(gathered),
            Coding::Gzip => Reading::Gzip(Box::new(MultiGzDecoder::new(gathered))),
            Coding::Deflate => Reading::Undecided(gathered),
            Coding::Zstd => {
                let mut decoder =
                    ZstdDecoder::new(gathered).map_err(|_| ServeError::Internal { what: "prepare a zstd decoder" })?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(|_| ServeError::Internal { what: "bound a zstd decoder" })?;
                Reading::Zstd(Box::new(decoder))
            }
        })
    }

    fn take(&mut self, data: &[u8]) -> Result<(), ServeError> {
        if let (Reading::Undecided(_), Some(first)) = (&*self, data.first())
            && let Reading::Undecided(gathered) = std::mem::replace(self, Reading::Gone)
        {
            // Of zlib the low half of the first byte is 8, which begins no block that a compressor writes.
            *self = match first & 0x0f {
                8 => Reading::Zlib(Box::new(ZlibDecoder::new(gathered))),
                _ => Reading::Bare(Box::new(DeflateDecoder::new(gathered))),
            };
        }
        let written = match self {
            Reading::Plain(gathered) => gathered.write_all(data),
            Reading::Gzip(decoder) => decoder.write_all(data),
            Reading::Zlib(decoder) => decoder.write_all(data),
            Reading::Bare(decoder) => decoder.write_all(data),
            Reading::Zstd(decoder) => decoder.write_all(data),
            Reading::Undecided(_) | Reading::Gone => Ok(()),
        };
        written.map_err(|error| self.refusal(&error))
    }

    /// What is still in the decoder comes out; a body that lacks its end is refused.
    fn end(mut self) -> Result<Bytes, ServeError> {
        let ended = match &mut self {
            Reading::Gzip(decoder) => decoder.try_finish(),
            Reading::Zlib(decoder) => decoder.try_finish(),
            Reading::Bare(decoder) => decoder.try_finish(),
            Reading::Zstd(decoder) => decoder.flush(),
            Reading::Plain(_) | Reading::Undecided(_) | Reading::Gone => Ok(()),
        };
        ended.map_err(|error| self.refusal(&error))?;
        let gathered = match self {
            Reading::Plain(gathered) | Reading::Undecided(gathered) => gathered,
            Reading::Gzip(decoder) => decoder.finish().map_err(|error| broken(&error))?,
            Reading::Zlib(decoder) => decoder.finish().map_err(|error| broken(&error))?,
            Reading::Bare(decoder) => decoder.finish().map_err(|error| broken(&error))?,
            Reading::Zstd(decoder) => decoder.into_inner(),
            Reading::Gone => return Err(ServeError::Internal { what: "a body without its decoder" }),
        };
        Ok(gathered.finish())
    }

    fn gathered(&self) -> Option<&Gathered> {
        match self {
            Reading::Plain(gathered) | Reading::Undecided(gathered) => Some(gathered),
            Reading::Gzip(decoder) => Some(decoder.get_ref()),
            Reading::Zlib(decoder) => Some(decoder.get_ref()),
            Reading::Bare(decoder) => Some(decoder.get_ref()),
            Reading::Zstd(decoder) => Some(decoder.get_ref()),
            Reading::Gone => None,
        }
    }

    fn gathered_mut(&mut self) -> Option<&mut Gathered> {
        match self {
            Reading::Plain(gathered) | Reading::Undecided(gathered) => Some(gathered),
            Reading::Gzip(decoder) => Some(decoder.get_mut()),
            Reading::Zlib(decoder) => Some(decoder.get_mut()),
            Reading::Bare(decoder) => Some(decoder.get_mut()),
            Reading::Zstd(decoder) => Some(decoder.get_mut()),
            Reading::Gone => None,
        }
    }

    fn refusal(&self, error: &io::Error) -> ServeError {
        self.gathered().map_or_else(|| broken(error), |gathered| gathered.refusal(error))
    }
}

fn broken(error: &io::Error) -> ServeError {
    let reason: Cow<'static, str> = match error.kind() {
        io::ErrorKind::UnexpectedEof => "ends before its compressed data does".into(),
        _ => "is not compressed as its Content-Encoding says".into(),
    };
    ServeError::BodyBroken { reason }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue, StatusCode};
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use futures::StreamExt;
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds { bytes: 100_000, room: 1 << 20, whole: Duration::from_secs(60), pause: SECOND };

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).and_then(|()| encoder.finish()).expect("compresses")
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).and_then(|()| encoder.finish()).expect("compresses")
    }

    fn bare(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).and_then(|()| encoder.finish()).expect("compresses")
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).expect("compresses")
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a header"))).collect()
    }

    fn encoded(encoding: &str) -> HeaderMap {
        headers(&[(CONTENT_ENCODING, encoding)])
    }

    /// In pieces of that many bytes.
    fn pieces(data: &[u8], size: usize) -> Body {
        let pieces: Vec<io::Result<Bytes>> = data.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Body::from_stream(futures::stream::iter(pieces))
    }

    async fn tried(headers: &HeaderMap, body: Body) -> Result<Bytes, StatusCode> {
        let bodies = Arc::default();
        let read = read_within(BOUNDS, &bodies, headers, body).await;
        read.map_err(|error| error.outside().status)
    }

    #[tokio::test]
    async fn bodies_are_decompressed_as_their_heads_say() {
        let text: Vec<u8> = (0..90_000_u32).map(|n| b'a' + u8::try_from(n % 19).expect("small")).collect();
        let twice = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        let cases: [(&str, Vec<u8>); 10] = [
            ("", text.clone()),
            ("identity", text.clone()),
            ("gzip", gzip(&text)),
            ("gzip", twice),
            ("X-GZip", gzip(&text)),
            ("identity, GZIP", gzip(&text)),
            ("deflate", zlib(&text)),
            ("deflate", bare(&text)),
            ("zstd", zstd(&text)),
            (" zstd ,", zstd(&text)),
        ];
        for (encoding, sent) in &cases {
            for size in [1 << 20, 777, 1] {
                let read = tried(&encoded(encoding), pieces(sent, size)).await;
                assert!(
                    read.as_deref() == Ok(&text[..]),
                    "{encoding} in pieces of {size}: {:?}",
                    read.map(|b| b.len())
                );
            }
            assert_eq!(
                tried(&encoded(encoding), Body::empty()).await.map(|body| body.len()).ok(),
                match *encoding {
                    "" | "identity" | "deflate" => Some(0),
                    // No bytes at all are no compressed nothing; that of zstd is.
                    " zstd ," | "zstd" => Some(0),
                    _ => None,
                },
                "{encoding}"
            );
        }
    }

    #[tokio::test]
    async fn what_cannot_be_taken_is_refused() {
        let large = vec![b' '; 100_001];
        let half = |data: Vec<u8>| data[..data.len() / 2].to_vec();
        let text: Vec<u8> =
            (0..50_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(90_000).collect();
        let cases: [(HeaderMap, Vec<u8>, u16); 17] = [
            (encoded(""), large.clone(), 413),
            (encoded("gzip"), gzip(&large), 413),
            (encoded("deflate"), zlib(&large), 413),
            (encoded("deflate"), bare(&large), 413),
            (encoded("zstd"), zstd(&large), 413),
            (encoded("gzip"), vec![b' '; 100_001], 400),
            (headers(&[(CONTENT_LENGTH, "100001")]), b"{}".to_vec(), 413),
            (headers(&[(CONTENT_LENGTH, "100001"), (CONTENT_ENCODING, "gzip")]), gzip(b"{}"), 413),
            (headers(&[(CONTENT_LENGTH, "18446744073709551615")]), b"{}".to_vec(), 413),
            (encoded("br"), b"{}".to_vec(), 415),
            (encoded("gzip, gzip"), gzip(&gzip(b"{}")), 415),
            (encoded("gzip;q=1"), gzip(b"{}"), 415),
            (encoded("gzip"), half(gzip(&text)), 400),
            (encoded("deflate"), b"\x78garbage".to_vec(), 400),
            (encoded("deflate"), b"\xff\xff\xff".to_vec(), 400),
            (encoded("zstd"), b"garbage".to_vec(), 400),
            (encoded("gzip"), [gzip(b"{}"), b"garbage and more of it".to_vec()].concat(), 400),
        ];
        for (number, (headers, sent, status)) in cases.into_iter().enumerate() {
            let read = tried(&headers, pieces(&sent, 1000)).await;
            assert_eq!(read.map(|body| body.len()), Err(StatusCode::from_u16(status).expect("a status")), "{number}");
        }
    }

    #[tokio::test]
    async fn a_bomb_costs_no_more_than_the_limit() {
        // 1 GiB of blanks, and a window larger than is taken.
        let mebibyte = vec![b' '; 1 << 20];
        let bomb = gzip(&mebibyte).repeat(1024);
        let bounds = Bounds { bytes: 4 << 20, room: 4 << 20, ..BOUNDS };
        let bodies: Arc<Tally> = Arc::default();
        let read = read_within(bounds, &bodies, &encoded("gzip"), pieces(&bomb, 16_384)).await;
        assert!(matches!(read, Err(ServeError::BodyTooLarge { max }) if max == 4 << 20), "{read:?}");
        assert_eq!(bodies.used(), 0);

        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(27).expect("a window");
        encoder.write_all(&mebibyte).expect("compresses");
        let wide = encoder.finish().expect("compresses");
        let read = read_within(bounds, &bodies, &encoded("zstd"), pieces(&wide, 16_384)).await;
        assert!(matches!(read, Err(ServeError::BodyBroken { .. })), "{read:?}");
    }

    #[tokio::test]
    async fn room_is_taken_step_by_step_and_given_back() {
        let bodies: Arc<Tally> = Arc::default();
        let bounds = Bounds { room: 150_000, ..BOUNDS };
        let read = async |size: usize, length: Option<&str>| {
            let headers = length.map_or_else(HeaderMap::new, |length| headers(&[(CONTENT_LENGTH, length)]));
            read_within(bounds, &bodies, &headers, pieces(&vec![b'x'; size], 1000)).await
        };
        let first = read(100_000, Some("100000")).await.expect("fits");
        assert_eq!(bodies.used(), 100_000, "no more than announced");
        let part = first.slice(10..20);
        // Announced and not sent: nothing is reserved.
        assert!(read(10, Some("100000")).await.is_ok());
        assert!(matches!(read(60_000, None).await, Err(ServeError::Busy { .. })));
        assert_eq!(bodies.used(), 100_000);
        drop(first);
        assert!(matches!(read(60_000, None).await, Err(ServeError::Busy { .. })), "a part keeps the whole");
        drop(part);
        assert_eq!(bodies.used(), 0);
        assert!(read(60_000, None).await.is_ok());
    }

    #[tokio::test]
    async fn slow_senders_are_cut() {
        const MILLI: Duration = Duration::from_millis(1);
        let every = |pause: Duration| {
            let piece = move |_| async move {
                tokio::time::sleep(pause).await;
                Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
            };
            Body::from_stream(futures::stream::unfold((), piece).boxed())
        };
        // How often a byte comes, the limits on the whole and on a pause, which of them it was.
        let cases = [
            (MILLI, 50 * MILLI, 10 * SECOND, "the whole of it"),
            (3600 * SECOND, 50 * MILLI, 10 * SECOND, "the whole of it"),
            (3600 * SECOND, 10 * SECOND, 50 * MILLI, "no byte for long"),
        ];
        for (pause, whole, longest, expected) in cases {
            let bounds = Bounds { whole, pause: longest, ..BOUNDS };
            let read = read_within(bounds, &Arc::default(), &HeaderMap::new(), every(pause)).await;
            assert!(matches!(read, Err(ServeError::BodyTooSlow { what }) if what == expected), "{pause:?} {read:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(
            sent in prop::collection::vec(any::<u8>(), 0..2000),
            encoding in prop::sample::select(vec!["", "gzip", "deflate", "zstd"]),
            size in 1..500_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let compressed = match encoding {
                "gzip" => gzip(&sent),
                "deflate" => bare(&sent),
                "zstd" => zstd(&sent),
                _ => sent.clone(),
            };
            let head = encoded(encoding);
            let read = runtime.block_on(tried(&head, pieces(&compressed, size)));
            assert!(read.as_deref() == Ok(&sent[..]), "{encoding}");
            let _ = runtime.block_on(tried(&head, pieces(&sent, size)));
        }
    }
}
