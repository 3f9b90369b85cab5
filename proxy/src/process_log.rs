//! The proxy's own events, to stderr: what an operator may care about, never one for each request. Its level can be
//! changed while the proxy runs.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<LogFormat, LogError> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Which events are written: a level, or one for each of some targets.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLevel(Targets);

impl FromStr for LogLevel {
    type Err = LogError;

    /// Reads `LEVEL`, `TARGET=LEVEL`, or several with commas between. Stricter than tracing's own, which takes a
    /// misspelt level for a target.
    fn from_str(text: &str) -> Result<LogLevel, LogError> {
        let wrong = || LogError::Level(text.to_owned());
        let mut targets = Targets::new();
        for part in text.split(',') {
            let (target, level) = match part.split_once('=') {
                Some((target, level)) if !target.is_empty() => (Some(target), level),
                Some(_) => return Err(wrong()),
                None => (None, part),
            };
            if !level.bytes().all(|byte| byte.is_ascii_alphabetic()) || level.is_empty() {
                return Err(wrong());
            }
            let level = LevelFilter::from_str(level).map_err(|_| wrong())?;
            targets = match target {
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            };
        }
        Ok(LogLevel(targets))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is wrong with the log's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The level.
    #[error("level {0:?} is not off, error, warn, info, debug or trace, nor TARGET=LEVEL with commas between")]
    Level(String),
    /// The format.
    #[error("format {0:?} is not text or json")]
    Format(String),
    /// Something else in the process writes the log.
    #[error("the log is already set up")]
    Installed,
}

/// Sets up the log of this process.
///
/// # Errors
/// When it is set up already.
pub fn install(level: LogLevel, format: LogFormat) -> Result<(), LogError> {
    let (subscriber, control) = build(level, format, io::stderr);
    subscriber.try_init().map_err(|_| LogError::Installed)?;
    CONTROL.set(control).map_err(|_| LogError::Installed)
}

/// Changes the level while the proxy runs. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogControl(reload::Handle<Targets, Registry>);

impl LogControl {
    /// That of this process; `None`: [`install`] was not called, so another program's log is in use.
    pub(crate) fn installed() -> Option<LogControl> {
        CONTROL.get().cloned()
    }

    /// The level now.
    pub(crate) fn level(&self) -> Option<LogLevel> {
        self.0.clone_current().map(LogLevel)
    }

    /// Sets the level.
    pub(crate) fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(level.0) {
            tracing::error!(%error, "the log's level can't be changed");
        }
    }
}

static CONTROL: OnceLock<LogControl> = OnceLock::new();

fn build<W>(level: LogLevel, format: LogFormat, out: W) -> (impl Subscriber + Send + Sync, LogControl)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(level.0);
    let layer = tracing_subscriber::fmt::layer().with_writer(out);
    let layer = match format {
        // Colour is for terminals; a sidecar's stderr is a pipe as a rule.
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    (Registry::default().with(layer.with_filter(filter)), LogControl(handle))
}

/// A log of its own for a test, written nowhere.
#[cfg(test)]
pub(crate) fn for_tests(level: &str) -> (impl Subscriber + Send + Sync + use<>, LogControl) {
    build(level.parse().expect("a level"), LogFormat::Text, io::sink)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("one thread").clone()).expect("text")
        }
    }

    #[track_caller]
    fn level(text: &str) -> LogLevel {
        text.parse().expect(text)
    }

    #[test]
    fn a_level_is_read_strictly() {
        for text in [
            "off",
            "info",
            "DEBUG",
            "weir_proxy=debug",
            "warn,weir_proxy::xds=trace,h2=off",
        ] {
            level(text);
        }
        for text in ["", "inf", "3", "a=b", "=debug", "debug,", "weir_proxy=", "debug;trace"] {
            assert_eq!(text.parse::<LogLevel>(), Err(LogError::Level(text.to_owned())));
        }
        assert_eq!("xml".parse::<LogFormat>(), Err(LogError::Format("xml".to_owned())));
    }

    #[test]
    fn a_level_changes_while_it_runs() {
        let written = Written::default();
        let out = written.clone();
        let (subscriber, control) = build(level("warn"), LogFormat::Json, move || out.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not yet");
            control.set_level(level("info"));
            tracing::info!(port = 1, "now");
            control.set_level(level("off"));
            tracing::error!("no more");
            assert_eq!(control.level().map(|level| level.to_string()).as_deref(), Some("off"));
        });
        let text = written.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&event["message"], &event["port"]), (&"now".into(), &1.into()));
    }

    #[test]
    fn text_is_for_people() {
        let written = Written::default();
        let out = written.clone();
        let (subscriber, _control) = build(level("info"), LogFormat::Text, move || out.clone());
        tracing::subscriber::with_default(subscriber, || tracing::warn!(port = 1, "busy"));
        let text = written.text();
        assert!(text.contains(" WARN ") && text.ends_with("busy port=1\n"), "{text:?}");
    }
}
