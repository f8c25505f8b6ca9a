//! Reads one input, cuts it into blocks, has them decoded on all cores and hands the results on in order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use arrow::error::ArrowError;
use parking_lot::Mutex;

use crate::ingest::block::{Block, DecodeOptions, decode_block};
use crate::ingest::builder::Parsed;
use crate::ingest::detect::{self, FormatError, Layout};
use crate::ingest::input::{Got, Input, InputError};
use crate::ingest::split::{Span, Splitter};

/// Bytes asked of the input at a time.
const READ_BYTES: usize = 128 << 10;
/// A block is handed on when its elements fill this much,
const BLOCK_BYTES: usize = 2 << 20;
/// or when there are so many of them.
const BLOCK_ELEMENTS: usize = 16 << 10;
/// The format is told from so much of the beginning.
const PREFIX_BYTES: usize = 64 << 10;

/// Why decoding stopped. Everything before was handed on.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError<E> {
    /// The input cannot be read, or only to there.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The form of the input cannot be told.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Columns could not be built.
    #[error("cannot build the columns of `{name}`: {source}")]
    Columns {
        /// The input.
        name: String,
        /// Why.
        source: ArrowError,
    },
    /// The receiver refused a block.
    #[error("{0}")]
    Sink(E),
}

/// Blocks that are decoded or being decoded, besides two a core: so that all cores have work while the sink does what only one can.
const BLOCKS_AHEAD: usize = 12;

/// Reads `input` on a thread of its own, decodes blocks on rayon's pool, and calls `sink` with the results in input
/// order on the calling thread. A few blocks a core are in flight at most, so a slow `sink` slows the reading. Not to be
/// called from a thread of rayon's pool.
///
/// What the `sink` itself has done on the pool goes before decoding, which fills the gaps: no more blocks wait for the pool at a time
/// than keep it busy.
///
/// While a pipe has nothing to give, what it gave is decoded and handed on, and `sink` is called about twice a second with nothing, so
/// that it can keep its own time.
///
/// When reading fails half-way, what came before is handed on first.
pub fn decode<E>(
    input: Input,
    options: &DecodeOptions,
    mut sink: impl FnMut(Parsed) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    let blocks = Blocks::open(input, options)?;
    let layout = blocks.layout.clone();
    let name = blocks.input.name().to_owned();
    let cores = rayon::current_num_threads();
    let (sender, receiver) = sync_channel(2 * cores + BLOCKS_AHEAD);
    let (place, places) = channel();
    (0..=cores).for_each(|_| drop(Place(place.clone())));
    let layout = &layout;
    rayon::in_place_scope(|pool| {
        let decode = move |block: Block, spare: Arc<Spare>| {
            let (sender, receiver) = sync_channel(1);
            // It never ends before this closure does, which holds the other side.
            let _ = places.recv();
            let place = Place(place.clone());
            pool.spawn(move |_| {
                let _place = place;
                let parsed = decode_block(layout, options, &block);
                spare.lock().push(block.bytes);
                // Nobody waits for it when the sink has stopped everything.
                let _ = sender.send(parsed);
            });
            receiver
        };
        std::thread::scope(|threads| {
            threads.spawn(|| read(blocks, sender, decode));
            for read in receiver {
                let parsed = match read {
                    Read::Block(result) => match result.recv() {
                        Ok(parsed) => parsed.map_err(|source| DecodeError::Columns { name: name.clone(), source })?,
                        // The task panicked; the scope goes on with that panic.
                        Err(_) => continue,
                    },
                    Read::Nothing => Parsed::nothing(),
                    Read::Failed(error) => return Err(DecodeError::Input(error)),
                };
                sink(parsed).map_err(DecodeError::Sink)?;
            }
            Ok(())
        })
    })
}

/// A place among the blocks that are being decoded, given back however that ends.
struct Place(Sender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// What reading gave.
enum Read {
    /// A block, which is being decoded.
    Block(Receiver<Result<Parsed, ArrowError>>),
    /// Nothing, for a while.
    Nothing,
    Failed(InputError),
}

/// Reads all blocks and hands them on, until nobody takes them.
#[expect(clippy::needless_pass_by_value, reason = "that `sender` goes tells the other side that all was read")]
fn read(
    mut blocks: Blocks,
    sender: SyncSender<Read>,
    decode: impl Fn(Block, Arc<Spare>) -> Receiver<Result<Parsed, ArrowError>>,
) {
    loop {
        let (read, is_last) = match blocks.next() {
            Ok(Next::Block(block)) => (Read::Block(decode(block, Arc::clone(&blocks.spare))), false),
            Ok(Next::Idle) => (Read::Nothing, false),
            Ok(Next::End) => return,
            Err(error) => (Read::Failed(error), true),
        };
        if sender.send(read).is_err() || is_last {
            return;
        }
    }
}

/// Buffers that came back, to be used again.
type Spare = Mutex<Vec<Vec<u8>>>;

/// Cuts an input into blocks.
struct Blocks {
    input: Input,
    layout: Layout,
    splitter: Splitter,
    /// Read and not handed on.
    buffer: Vec<u8>,
    /// Offset of the buffer in the stream.
    base: u64,
    spans: Vec<Span>,
    spare: Arc<Spare>,
    state: State,
}

enum Next {
    Block(Block),
    /// Nothing has come for a while, and everything that came was handed on.
    Idle,
    End,
}

#[derive(Debug)]
enum State {
    Reading,
    /// Reading failed; what was read goes first.
    Failed(InputError),
    Ended,
}

impl Blocks {
    fn open(mut input: Input, options: &DecodeOptions) -> Result<Self, FormatError> {
        let mut buffer = Vec::with_capacity(BLOCK_BYTES + READ_BYTES);
        let mut state = State::Reading;
        while !is_enough(&buffer) {
            match input.read(READ_BYTES, &mut buffer, 1) {
                Ok(Got::End) => break,
                // Whoever sends a line and waits wants to see it taken.
                Ok(Got::Idle) if buffer.contains(&b'\n') => break,
                Ok(Got::Bytes | Got::Idle) => {}
                Err(error) => {
                    state = State::Failed(error);
                    break;
                }
            }
        }
        if buffer.starts_with(b"\xef\xbb\xbf") {
            buffer.drain(..3);
        }
        let prefix = buffer.get(..PREFIX_BYTES).unwrap_or(&buffer);
        let layout = detect::layout(prefix, input.name(), options)?;
        let splitter = Splitter::new(layout.framing());
        Ok(Blocks { input, layout, splitter, buffer, base: 0, spans: Vec::new(), spare: Arc::default(), state })
    }

    fn next(&mut self) -> Result<Next, InputError> {
        loop {
            self.scan();
            if self.is_full() {
                return Ok(Next::Block(self.cut()));
            }
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended if self.spans.is_empty() => return Ok(Next::End),
                State::Ended => return Ok(Next::Block(self.cut())),
                State::Failed(error) if self.spans.is_empty() => return Err(error),
                State::Failed(error) => {
                    self.state = State::Failed(error);
                    return Ok(Next::Block(self.cut()));
                }
                State::Reading => {}
            }
            self.drop_skipped();
            self.state = match self.input.read(READ_BYTES, &mut self.buffer, self.splitter.line()) {
                Err(error) => State::Failed(error),
                Ok(Got::Idle) => {
                    self.state = State::Reading;
                    return Ok(if self.spans.is_empty() { Next::Idle } else { Next::Block(self.cut()) });
                }
                Ok(Got::End) => {
                    while !self.splitter.finish(&mut self.spans) {
                        self.scan();
                    }
                    State::Ended
                }
                Ok(Got::Bytes) => State::Reading,
            };
        }
    }

    fn scan(&mut self) {
        let end = self.base + self.buffer.len() as u64;
        while self.splitter.position() < end {
            let from = (self.splitter.position() - self.base) as usize;
            self.splitter.feed(self.buffer.get(from..).unwrap_or_default(), &mut self.spans);
        }
    }

    fn is_full(&self) -> bool {
        let taken = self.spans.last().map_or(0, |last| last.end - self.base);
        taken >= BLOCK_BYTES as u64 || self.spans.len() >= BLOCK_ELEMENTS
    }

    /// Hands on the elements found; the beginning of the next one moves to another buffer.
    fn cut(&mut self) -> Block {
        let kept_from = self.splitter.keep_from();
        let mut rest = self.spare.lock().pop().unwrap_or_default();
        rest.clear();
        rest.extend_from_slice(self.buffer.get((kept_from - self.base) as usize..).unwrap_or_default());
        let bytes = std::mem::replace(&mut self.buffer, rest);
        let base = std::mem::replace(&mut self.base, kept_from);
        Block { bytes, base, spans: std::mem::take(&mut self.spans) }
    }

    /// Forgets what lies between elements, or in one that is too long, however much it is.
    fn drop_skipped(&mut self) {
        let kept_from = self.splitter.keep_from();
        let skipped = (kept_from - self.base) as usize;
        if self.spans.is_empty() && skipped >= READ_BYTES {
            self.buffer.drain(..skipped.min(self.buffer.len()));
            self.base = kept_from;
        }
    }
}

/// Whether the format can be told: from the first brackets of JSON, else from a good part of the beginning.
fn is_enough(prefix: &[u8]) -> bool {
    let first = prefix.iter().copied().find(|byte| !byte.is_ascii_whitespace());
    prefix.len() >= PREFIX_BYTES || (first == Some(b'{') && prefix.contains(&b'\n'))
}
