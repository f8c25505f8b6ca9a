//! Output buffers that are used again: fresh ones cost as much as rendering into them.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers of one kind of work.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Idle>,
}

#[derive(Debug)]
struct Idle {
    buffers: Mutex<Vec<Vec<u8>>>,
    most: usize,
    largest_bytes: usize,
}

/// A buffer being filled.
#[derive(Debug)]
pub struct Filling {
    buffer: Vec<u8>,
    pool: Arc<Idle>,
}

impl BufferPool {
    /// Keeps at most `most` idle buffers, none larger than `largest_bytes`.
    pub fn new(most: usize, largest_bytes: usize) -> Self {
        BufferPool { shared: Arc::new(Idle { buffers: Mutex::default(), most, largest_bytes }) }
    }

    /// An empty buffer.
    pub fn take(&self) -> Filling {
        let buffer = self.shared.buffers.lock().pop().unwrap_or_default();
        Filling { buffer, pool: Arc::clone(&self.shared) }
    }
}

impl Filling {
    /// The bytes so far.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The filled bytes; the buffer comes back to the pool when the last reader drops them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Filling {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.capacity() == 0 || buffer.capacity() > self.pool.largest_bytes {
            return;
        }
        buffer.clear();
        let mut idle = self.pool.buffers.lock();
        if idle.len() < self.pool.most {
            idle.push(buffer);
        }
    }
}
