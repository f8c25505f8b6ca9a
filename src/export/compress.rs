//! Compression of pieces: each becomes a gzip member or a zstd frame of its own, so that all cores compress; readers of
//! either take any number of them for one stream (RFC 1952 §2.2, RFC 8878 §3).

use std::io::Write;
use std::str::FromStr;

use flate2::write::GzEncoder;

use crate::export::ExportError;

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, level 1–9.
    Gzip(u32),
    /// zstd, level 1–19.
    Zstd(i32),
}

impl Compression {
    /// The ending that such files have.
    pub fn ending(self) -> &'static str {
        match self {
            Compression::Gzip(_) => ".gz",
            Compression::Zstd(_) => ".zst",
        }
    }

    /// `gzip:1`, as on the command line.
    pub fn name(self) -> String {
        match self {
            Compression::Gzip(level) => format!("gzip:{level}"),
            Compression::Zstd(level) => format!("zstd:{level}"),
        }
    }

    /// Appends `piece`, compressed; also one of no bytes, which a file without any others needs.
    pub(super) fn append(self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), ExportError> {
        let failed = ExportError::internal("compress");
        match self {
            Compression::Gzip(level) => {
                let mut encoder = GzEncoder::new(out, flate2::Compression::new(level));
                encoder.write_all(piece).and_then(|()| encoder.finish().map(|_| ())).map_err(failed)
            }
            Compression::Zstd(level) => {
                out.append(&mut zstd::bulk::compress(piece, level).map_err(failed)?);
                Ok(())
            }
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    /// `gzip`, `zstd`, or one of them with `:` and a level.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        // The fastest levels: what they make larger is read and sent faster than it could be made smaller.
        let level = level.unwrap_or("1").parse::<u32>().ok();
        match (name, level) {
            ("gzip", Some(level @ 1..=9)) => Ok(Compression::Gzip(level)),
            ("zstd", Some(level @ 1..=19)) => Ok(Compression::Zstd(level as i32)),
            ("gzip", _) => Err("levels of gzip are 1 to 9: `gzip:6`".to_owned()),
            ("zstd", _) => Err("levels of zstd are 1 to 19: `zstd:3`".to_owned()),
            _ => Err("use `gzip` or `zstd`, with a level behind `:` if need be: `zstd:3`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn pieces_read_back_as_one_stream() {
        for text in ["gzip", "gzip:9", "zstd", "zstd:3"] {
            let compression: Compression = text.parse().unwrap();
            let mut out = Vec::new();
            for piece in ["first,", "", "second"] {
                compression.append(piece.as_bytes(), &mut out).unwrap();
            }
            let mut read = String::new();
            match compression {
                Compression::Gzip(_) => flate2::read::MultiGzDecoder::new(&out[..]).read_to_string(&mut read).unwrap(),
                Compression::Zstd(_) => zstd::Decoder::new(&out[..]).unwrap().read_to_string(&mut read).unwrap(),
            };
            assert_eq!(read, "first,second", "{text}");
        }
        for text in ["gzip:0", "gzip:10", "zstd:20", "zstd:x", "lz4", "", "gzip:"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }
}
