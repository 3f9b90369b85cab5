//! The chunked transfer coding (RFC 9112 section 7.1), decoded byte by byte: what comes out does not depend on how it
//! came. No I/O.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::http::h1::parse;
use crate::http::h1::violation::Violation;
use crate::http::head::OWN;

/// The most that extensions may hold, in all chunks of one body. Nobody uses them, and each is work for nothing.
pub(crate) const EXTENSION_BYTES_MAX: usize = 4096;

/// The most that a trailer section may hold.
pub(crate) const TRAILER_BYTES_MAX: usize = 8192;

/// Where in a chunked body its reader is.
#[derive(Debug)]
pub(crate) struct Decoder {
    at: At,
    /// Of the chunk under way: its size while that is read, then what is left of its data.
    left: u64,
    /// Digits of the size so far; leading zeros count.
    digits: u8,
    extension_bytes: usize,
    /// The trailer section as it came; its lines are read when it has ended.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    /// Blanks after the size: only an extension may follow.
    BeforeExtension,
    Extension,
    /// A quoted string in an extension.
    Quoted,
    /// After a backslash in it.
    Escaped,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the begin of a line of the trailer section.
    TrailerLine,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Decoder {
    /// At the begin of a body.
    pub(crate) fn new() -> Decoder {
        Decoder {
            at: At::Size,
            left: 0,
            digits: 0,
            extension_bytes: 0,
            trailers: Vec::new(),
        }
    }

    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// Whether a trailer section has come.
    pub(crate) fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }

    /// Appends the data among `input` to `data`, and says how much of `input` belongs to the body: all, unless it
    /// ended.
    ///
    /// # Errors
    /// When it is no chunked body; nothing after that can be told apart.
    pub(crate) fn decode(&mut self, input: &[u8], data: &mut Vec<u8>) -> Result<usize, Violation> {
        let mut rest = input;
        while self.at != At::End {
            if self.at == At::Data {
                let here = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
                let (part, after) = rest.split_at(here);
                data.extend_from_slice(part);
                self.left -= here as u64;
                rest = after;
                if self.left > 0 {
                    break;
                }
                self.at = At::DataCr;
            }
            let Some((byte, after)) = rest.split_first() else { break };
            rest = after;
            self.at = self.step(*byte)?;
        }
        Ok(input.len() - rest.len())
    }

    fn step(&mut self, byte: u8) -> Result<At, Violation> {
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (At::Size, _) if self.digits == 0 => Err(Violation::ChunkSize),
            (At::Size, b'\r') => Ok(At::SizeLf),
            (At::Size | At::BeforeExtension, b' ' | b'\t') => self.extension(At::BeforeExtension),
            (At::Size | At::BeforeExtension, b';') => self.extension(At::Extension),
            (At::Size, _) => Err(Violation::ChunkSize),
            (At::BeforeExtension, _) => Err(Violation::ChunkExtension),
            (At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, b'"') => self.extension(At::Quoted),
            (At::Quoted, b'"') => self.extension(At::Extension),
            (At::Quoted, b'\\') => self.extension(At::Escaped),
            (At::Extension | At::Quoted | At::Escaped, byte) if byte < b' ' && byte != b'\t' || byte == 0x7f => {
                Err(Violation::ChunkExtension)
            }
            (At::Extension, _) => self.extension(At::Extension),
            (At::Quoted | At::Escaped, _) => self.extension(At::Quoted),
            (At::SizeLf, b'\n') if self.left == 0 => Ok(At::TrailerLine),
            (At::SizeLf, b'\n') => Ok(At::Data),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => {
                self.digits = 0;
                Ok(At::Size)
            }
            (At::SizeLf | At::DataCr | At::DataLf, _) => Err(Violation::ChunkEnd),
            (At::TrailerLine, b'\r') => Ok(At::EndLf),
            (At::Trailer, b'\r') => self.trailer(byte, At::TrailerLf),
            (At::TrailerLf, b'\n') => self.trailer(byte, At::TrailerLine),
            (At::TrailerLine | At::Trailer, b'\n') | (At::TrailerLf, _) => Err(Violation::Trailers),
            (At::TrailerLine | At::Trailer, _) => self.trailer(byte, At::Trailer),
            (At::EndLf, b'\n') => Ok(At::End),
            (At::EndLf, _) => Err(Violation::ChunkEnd),
            // `decode` takes these bytes itself.
            (At::Data | At::End, _) => Ok(self.at),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<At, Violation> {
        // 16 digits are 64 bits, so that nothing overflows.
        if self.digits == 16 {
            return Err(Violation::ChunkSize);
        }
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => byte.wrapping_sub(b'A') + 10,
        };
        self.digits += 1;
        self.left = self.left << 4 | u64::from(value);
        Ok(At::Size)
    }

    fn extension(&mut self, next: At) -> Result<At, Violation> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Violation::ChunkExtension);
        }
        Ok(next)
    }

    fn trailer(&mut self, byte: u8, next: At) -> Result<At, Violation> {
        if self.trailers.len() == TRAILER_BYTES_MAX {
            return Err(Violation::TrailersLength);
        }
        self.trailers.push(byte);
        Ok(next)
    }

    /// The trailers of a body that [is done](Decoder::is_done), without those that may not come so late; `None`: there
    /// are none.
    ///
    /// # Errors
    /// When a line is no field.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, Violation> {
        if self.trailers.is_empty() {
            return Ok(None);
        }
        let section = Bytes::from(std::mem::take(&mut self.trailers));
        let mut trailers = HeaderMap::new();
        let mut begin = 0;
        // Each line ends with CR LF: anything else has been refused.
        for end in memchr::memchr_iter(b'\n', &section) {
            let (name, value) = parse::field(&section, begin..end - 1).map_err(|_| Violation::Trailers)?;
            begin = end + 1;
            if may_trail(&name) && trailers.try_append(name, value).is_err() {
                return Err(Violation::TrailersLength);
            }
        }
        Ok((!trailers.is_empty()).then_some(trailers))
    }
}

/// Whether a field may come after the body. What frames, routes, authenticates, modifies the request or describes the
/// content is decided by the head: a trailer could only contradict it (RFC 9110 section 6.5.1), so it is left out. So
/// is what only sidecars say to each other.
pub(super) fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 28] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        header::MAX_FORWARDS,
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::CACHE_CONTROL,
        header::PRAGMA,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
    ];
    !NEVER.contains(name) && !OWN.contains(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data and the trailers of a body in these parts, and how many bytes of it there were.
    fn in_parts(parts: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Option<Violation>> {
        let mut decoder = Decoder::new();
        let mut data = Vec::new();
        let mut taken = 0;
        for part in parts {
            taken += decoder.decode(part, &mut data).map_err(Some)?;
        }
        if !decoder.is_done() {
            return Err(None);
        }
        Ok((data, decoder.take_trailers().map_err(Some)?, taken))
    }

    #[track_caller]
    fn reads(text: &str, data: &str) {
        let read = in_parts(&[text.as_bytes(), b"next"]).map(|(data, _, taken)| (data, taken));
        assert_eq!(read, Ok((data.as_bytes().to_vec(), text.len())), "{text:?}");
    }

    #[track_caller]
    fn refused(text: &str, expect: Violation) {
        assert_eq!(in_parts(&[text.as_bytes()]).map(|_| ()), Err(Some(expect)), "{text:?}");
    }

    #[test]
    fn chunks_are_joined() {
        reads("0\r\n\r\n", "");
        reads("5\r\nwhole\r\n0\r\n\r\n", "whole");
        reads("a\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", "0123456789x");
        reads("A\r\n0\r\n\r\n34567\r\n0\r\n\r\n", "0\r\n\r\n34567");
        // RFC 9112 section 7.1.1: what nobody knows is skipped; blanks before it are an old mistake.
        reads("1;a\r\nx\r\n0;b=c;d=\"e;f\\\"\"\r\n\r\n", "x");
        reads("1 \t;a\r\nx\r\n0\r\n\r\n", "x");
        assert_eq!(in_parts(&[b"5\r\nwho"]), Err(None));
    }

    #[test]
    fn sizes() {
        for text in [
            "\r\n", "x\r\n", "-1\r\n", "+1\r\n", "0x1\r\n", " 1\r\n", ";a\r\n", "1g\r\n", "1\0\r\n",
        ] {
            refused(text, Violation::ChunkSize);
        }
        // 2^64, and with zeros before.
        refused("10000000000000000\r\n", Violation::ChunkSize);
        refused("00000000000000001\r\nx", Violation::ChunkSize);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(b"ffffffffffffffff\r\nabc", &mut Vec::new()), Ok(21));
        assert_eq!(decoder.left, u64::MAX - 3);
    }

    #[test]
    fn ends() {
        for text in [
            "1\rx",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "1\r\nx\r0",
            "5\r\nwhole0\r\n\r\n",
            "0\r\n\rx",
            "1;a\rx",
        ] {
            refused(text, Violation::ChunkEnd);
        }
        refused("1\nx", Violation::ChunkSize);
        refused("0\r\n\n", Violation::Trailers);
    }

    #[test]
    fn extensions() {
        // What hides a line's end from some readers ends the body for us.
        for text in [
            "1;\n",
            "1;a\0\r\n",
            "1;a=\"\r\n\"",
            "1;a=\"\\\n",
            "1 \r\n",
            "1 x\r\n",
            "1;a\u{7f}\r\n",
        ] {
            refused(text, Violation::ChunkExtension);
        }
        let long = "a".repeat(EXTENSION_BYTES_MAX);
        refused(&format!("1;{long}\r\n"), Violation::ChunkExtension);
        reads(&format!("1;{}\r\nx\r\n0\r\n\r\n", &long[1..]), "x");
        let many = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(EXTENSION_BYTES_MAX / 16 + 1);
        refused(&many, Violation::ChunkExtension);
    }

    #[test]
    fn trailers() {
        let read =
            |section: &str| in_parts(&[format!("0\r\n{section}\r\n").as_bytes()]).map(|(_, trailers, _)| trailers);
        let trailers = read("X-A: 1\r\nx-a: 2\r\n").expect("trailers").expect("two");
        assert_eq!(trailers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        // RFC 9110 section 6.5.1: what only a head may say is left out, whatever it says.
        let late = "content-length: 5\r\ntransfer-encoding: chunked\r\nhost: b\r\nauthorization: x\r\n\
                    connection: x\r\nweir-context: 1\r\nweir-verdict: 1\r\nweir-check: request\r\n\
                    cookie: a\r\ncontent-type: x\r\n";
        assert_eq!(read(late), Ok(None));
        for section in [
            "x\r\n",
            "x : y\r\n",
            " x: y\r\n",
            "x: y\r\n z\r\n",
            "x: \0\r\n",
            "x: y\n",
            "x: y\rz\r\n",
        ] {
            assert_eq!(read(section), Err(Some(Violation::Trailers)), "{section:?}");
        }
        let long = format!("x: {}\r\n", "y".repeat(TRAILER_BYTES_MAX));
        assert_eq!(read(&long), Err(Some(Violation::TrailersLength)));
    }

    proptest! {
        #[test]
        fn what_is_chunked_comes_out_whole(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..6),
            cut in 0_usize..2000,
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\nGET");
            let (first, second) = text.split_at(cut.min(text.len()));
            let (data, trailers, taken) = in_parts(&[first, second]).expect("it is well formed");
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers, None);
            prop_assert_eq!(taken, text.len() - 3);
        }
    }
}
