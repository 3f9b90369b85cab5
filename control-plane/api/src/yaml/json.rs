//! Reading JSON (RFC 8259) into the same documents as YAML: with lines, and as strictly. JSON is YAML, but the YAML
//! parser keeps all of it in memory as tokens and knows no surrogate pairs.

use serde_json::{Number, Value};

use super::{Flow, Holds, OUT_OF_RANGE, Reader};

/// The text is not JSON; it may be YAML.
pub(super) struct NotJson;

/// Reads a text that is one JSON value.
///
/// # Errors
/// When the syntax is not JSON's; what the reader holds then is of no use.
pub(super) fn run(reader: &mut Reader, text: &str) -> Result<(), NotJson> {
    let mut scan = Scan { rest: text, line: 1 };
    let mut expect = Expect::Value;
    while let Some(token) = scan.token()? {
        let line = scan.line;
        let (flow, next) = match (expect, token) {
            (Expect::Value | Expect::ValueOrEnd, Token::OpenList) => {
                (reader.open(line, Holds::list()), Expect::ValueOrEnd)
            }
            (Expect::Value | Expect::ValueOrEnd, Token::OpenObject) => {
                (reader.open(line, Holds::object()), Expect::KeyOrEnd)
            }
            (Expect::Value | Expect::ValueOrEnd, Token::Text(text)) => {
                (reader.leaf(line, Value::String(text)), after(reader))
            }
            (Expect::Value | Expect::ValueOrEnd, Token::Word(word)) => {
                let value = literal(reader, line, word)?;
                (reader.leaf(line, value), after(reader))
            }
            (Expect::ValueOrEnd | Expect::CommaOrEnd(In::List), Token::CloseList)
            | (Expect::KeyOrEnd | Expect::CommaOrEnd(In::Object), Token::CloseObject) => {
                (reader.close(), after(reader))
            }
            (Expect::Key | Expect::KeyOrEnd, Token::Text(key)) => (reader.put_key(line, key), Expect::Colon),
            (Expect::Colon, Token::Colon) => (Flow::On, Expect::Value),
            (Expect::CommaOrEnd(In::List), Token::Comma) => (Flow::On, Expect::Value),
            (Expect::CommaOrEnd(In::Object), Token::Comma) => (Flow::On, Expect::Key),
            _ => return Err(NotJson),
        };
        match flow {
            Flow::On => expect = next,
            Flow::End => return Ok(()),
        }
    }
    match expect {
        Expect::Nothing => Ok(()),
        Expect::Value
        | Expect::ValueOrEnd
        | Expect::Key
        | Expect::KeyOrEnd
        | Expect::Colon
        | Expect::CommaOrEnd(In::List | In::Object) => Err(NotJson),
    }
}

/// What may come next.
#[derive(Clone, Copy)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd(In),
    Nothing,
}

/// What is being read.
#[derive(Clone, Copy)]
enum In {
    List,
    Object,
}

/// What may come after a value.
fn after(reader: &Reader) -> Expect {
    match reader.frames.last().map(|frame| &frame.holds) {
        Some(Holds::Items(..)) => Expect::CommaOrEnd(In::List),
        Some(Holds::Fields(..)) => Expect::CommaOrEnd(In::Object),
        None => Expect::Nothing,
    }
}

enum Token<'a> {
    OpenList,
    CloseList,
    OpenObject,
    CloseObject,
    Comma,
    Colon,
    Text(String),
    /// A number, `true`, `false` or `null`.
    Word(&'a str),
}

struct Scan<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Scan<'a> {
    fn token(&mut self) -> Result<Option<Token<'a>>, NotJson> {
        let behind = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (space, _) = self.rest.split_at(self.rest.len() - behind.len());
        let lines = space.bytes().filter(|b| *b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = behind;
        let Some(first) = behind.bytes().next() else {
            return Ok(None);
        };
        let (length, token) = match first {
            b'[' => (1, Token::OpenList),
            b']' => (1, Token::CloseList),
            b'{' => (1, Token::OpenObject),
            b'}' => (1, Token::CloseObject),
            b',' => (1, Token::Comma),
            b':' => (1, Token::Colon),
            b'"' => {
                let length = text_length(behind)?;
                let quoted = behind.get(..length).ok_or(NotJson)?;
                (length, Token::Text(serde_json::from_str(quoted).map_err(|_| NotJson)?))
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                let in_word = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
                let length = behind.bytes().take_while(in_word).count();
                (length, Token::Word(behind.get(..length).ok_or(NotJson)?))
            }
            _ => return Err(NotJson),
        };
        self.rest = behind.get(length..).ok_or(NotJson)?;
        Ok(Some(token))
    }
}

/// The length of the text in quotes at the front, with its quotes.
fn text_length(text: &str) -> Result<usize, NotJson> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Ok(index + 1),
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    Err(NotJson)
}

fn literal(reader: &mut Reader, line: u32, word: &str) -> Result<Value, NotJson> {
    match word {
        "null" => return Ok(Value::Null),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        "-0" => return Ok(Value::from(0)),
        _ => {}
    }
    let whole = !word.contains(['.', 'e', 'E']);
    match serde_json::from_str::<Number>(word) {
        Ok(number) if !whole || !number.is_f64() => Ok(Value::Number(number)),
        // What does not fit is right by the grammar alone.
        Err(error) if error.is_syntax() && !word.parse().is_ok_and(f64::is_infinite) => Err(NotJson),
        Ok(_) | Err(_) => {
            reader.wrong(line, reader.path(), word, OUT_OF_RANGE.problem, OUT_OF_RANGE.remedy);
            Ok(Value::Null)
        }
    }
}
