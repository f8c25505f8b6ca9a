//! Pages packed on the way out: every slice by itself, on all cores, and the packed slices strung together.
//!
//! What comes out is one gzip member (RFC 1952), whose slices end on a byte ("sync flush") and share nothing, or one frame a
//! slice (RFC 8878 allows any number). So a packed slice stays right wherever it stands in a page, and can be kept.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::bulk::Compressor;

use crate::feed::api::Coding;

/// Fastest: of 47 MB of objects a higher level saves little and takes several times as long.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// No file name, no time, made on an unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block, without content.
const GZIP_LAST_BLOCK: [u8; 2] = [0x03, 0x00];

thread_local! {
    static DEFLATE: RefCell<Option<Compress>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Bytes packed by themselves.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    /// Of what was packed: its checksum and length.
    crc: u32,
    plain_bytes: u64,
}

impl Packed {
    /// Not packed at all.
    pub(crate) fn plain(bytes: Bytes) -> Self {
        let plain_bytes = bytes.len() as u64;
        Packed { bytes, crc: 0, plain_bytes }
    }
}

/// Appends `plain`, packed, to `out`.
fn pack_into(coding: Coding, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match coding {
        Coding::Identity => out.extend_from_slice(plain),
        Coding::Gzip => DEFLATE.with_borrow_mut(|deflate| {
            let deflate = deflate.get_or_insert_with(|| Compress::new(Compression::new(GZIP_LEVEL), false));
            deflate.reset();
            let mut rest = plain;
            loop {
                // Room for what deflate makes of random bytes; then everything is out at once.
                out.reserve(rest.len() + rest.len() / 1_000 + 64);
                let before = deflate.total_in();
                let status = deflate.compress_vec(rest, out, FlushCompress::Sync).map_err(io::Error::other)?;
                rest = rest.get((deflate.total_in() - before) as usize..).unwrap_or_default();
                if rest.is_empty() && out.len() < out.capacity() {
                    return Ok(());
                }
                if status == Status::StreamEnd {
                    return Err(io::Error::other("deflate ended before its input"));
                }
            }
        })?,
        Coding::Zstd => ZSTD.with_borrow_mut(|zstd| {
            if zstd.is_none() {
                *zstd = Some(Compressor::new(ZSTD_LEVEL)?);
            }
            let Some(zstd) = zstd else { return Err(io::Error::other("no compressor")) };
            out.extend_from_slice(&zstd.compress(plain)?);
            Ok(())
        })?,
    }
    Ok(())
}

/// Packs `plain` by itself.
pub(crate) fn pack(coding: Coding, plain: &[u8]) -> io::Result<Packed> {
    let mut out = Vec::new();
    pack_into(coding, plain, &mut out)?;
    // Room was made for bytes that cannot be packed.
    out.shrink_to_fit();
    let crc = if coding == Coding::Gzip { crc32fast::hash(plain) } else { 0 };
    Ok(Packed { bytes: out.into(), crc, plain_bytes: plain.len() as u64 })
}

/// What stands around packed bytes.
#[derive(Debug)]
pub(crate) struct Packing {
    coding: Coding,
    checksum: crc32fast::Hasher,
    plain_bytes: u64,
}

impl Packing {
    pub(crate) fn new(coding: Coding) -> Self {
        Packing { coding, checksum: crc32fast::Hasher::new(), plain_bytes: 0 }
    }

    pub(crate) fn coding(&self) -> Coding {
        self.coding
    }

    /// The first bytes: what the coding needs, and `plain`.
    pub(crate) fn open(&mut self, plain: &[u8]) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(plain.len() + 64);
        if self.coding == Coding::Gzip {
            out.extend_from_slice(&GZIP_HEAD);
        }
        self.append(plain, &mut out)?;
        Ok(out.into())
    }

    /// Few bytes between others.
    pub(crate) fn between(&mut self, plain: &[u8]) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(plain.len() + 32);
        self.append(plain, &mut out)?;
        Ok(out.into())
    }

    /// Says that `packed` comes next.
    pub(crate) fn note(&mut self, packed: &Packed) {
        if self.coding == Coding::Gzip {
            self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(packed.crc, packed.plain_bytes));
        }
        self.plain_bytes += packed.plain_bytes;
    }

    /// The last bytes: `plain`, and what the coding needs.
    pub(crate) fn close(mut self, plain: &[u8]) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(plain.len() + 64);
        self.append(plain, &mut out)?;
        if self.coding == Coding::Gzip {
            out.extend_from_slice(&GZIP_LAST_BLOCK);
            out.extend_from_slice(&self.checksum.finalize().to_le_bytes());
            // Modulo 2^32, as the format has it.
            out.extend_from_slice(&(self.plain_bytes as u32).to_le_bytes());
        }
        Ok(out.into())
    }

    fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        pack_into(self.coding, plain, out)?;
        if self.coding == Coding::Gzip {
            self.checksum.update(plain);
        }
        self.plain_bytes += plain.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn strung(coding: Coding, head: &[u8], pieces: &[Vec<u8>], tail: &[u8]) -> Vec<u8> {
        let mut packing = Packing::new(coding);
        let mut out = packing.open(head).unwrap().to_vec();
        for (place, piece) in pieces.iter().enumerate() {
            if place > 0 {
                out.extend_from_slice(&packing.between(b",").unwrap());
            }
            let packed = pack(coding, piece).unwrap();
            packing.note(&packed);
            out.extend_from_slice(&packed.bytes);
        }
        out.extend_from_slice(&packing.close(tail).unwrap());
        out
    }

    proptest! {
        #[test]
        fn what_is_strung_together_unpacks_to_the_whole(
            head in prop::collection::vec(any::<u8>(), 0..50),
            pieces in prop::collection::vec(prop::collection::vec(0u8..20, 0..40_000), 0..5),
            noise in prop::collection::vec(any::<u8>(), 0..70_000),
        ) {
            let mut pieces = pieces;
            pieces.push(noise);
            let whole = [&head[..], &pieces.join(&b","[..]), b"]}"].concat();
            let gzip = strung(Coding::Gzip, &head, &pieces, b"]}");
            let mut unpacked = Vec::new();
            // One member: many clients look for no second one.
            flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, whole);
            let zstd = strung(Coding::Zstd, &head, &pieces, b"]}");
            assert_eq!(zstd::stream::decode_all(&zstd[..]).unwrap(), whole);
            assert_eq!(strung(Coding::Identity, &head, &pieces, b"]}"), whole);
        }
    }
}
