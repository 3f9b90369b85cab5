//! The citizens: queries at a steady pace whatever the answers do, and what came of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::{PAGE_DEGRADED, PAGE_END, PAGE_HEADER, PAGE_WHOLE};
use crate::http::{Answer, CallError, Client};

/// Queries under way; they end with it.
pub(crate) struct Load {
    meter: Arc<Mutex<Totals>>,
    /// The workers: owned, so that they end with this.
    _citizens: JoinSet<()>,
}

impl Load {
    /// Sends `per_second` queries a second to the portal's edge port.
    ///
    /// The pace is open: query n is due at n / `per_second` and its time counts from then, so that a slow answer can't
    /// hide behind queries that were not sent. At most [`CITIZENS`] are under way at once; who waits longer than
    /// [`PATIENCE`] has failed.
    pub(crate) fn start(edge: SocketAddr, per_second: u32) -> Load {
        let meter = Arc::new(Mutex::new(Totals::default()));
        let start = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let client = Arc::new(Client::new(edge));
        let mut citizens = JoinSet::new();
        for _ in 0..CITIZENS {
            let (meter, next, client) = (meter.clone(), next.clone(), client.clone());
            citizens.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = start + Duration::from_secs(1).mul_f64(number as f64 / f64::from(per_second.max(1)));
                    tokio::time::sleep_until(due).await;
                    let page = query(&client, number).await;
                    if let Ok(mut totals) = meter.lock() {
                        totals.add(&page, due.elapsed());
                    }
                }
            });
        }
        Load {
            meter,
            _citizens: citizens,
        }
    }

    /// All that came of the queries so far.
    pub(crate) fn totals(&self) -> Totals {
        self.meter.lock().map(|totals| totals.clone()).unwrap_or_default()
    }
}

/// What a citizen got.
#[derive(Debug)]
pub(crate) enum Page {
    /// A page with all parts.
    Whole(Answer),
    /// A page that says what is missing.
    Degraded(Answer),
    /// No page.
    Blank(String),
}

/// One citizen's query.
pub(crate) async fn query(client: &Client, citizen: u64) -> Page {
    let path = format!("/?citizen={}", citizen % 1_000_000);
    judge(client.get("portal.example", &path, &HeaderMap::new(), PATIENCE).await)
}

fn judge(answer: Result<Answer, CallError>) -> Page {
    match answer {
        Ok(answer) if answer.status != StatusCode::OK => {
            let why = answer
                .header("proxy-status")
                .map(|why| format!(" ({why})"))
                .unwrap_or_default();
            Page::Blank(format!("{}{why}", answer.status))
        }
        Ok(answer) if !answer.body.ends_with(PAGE_END.as_bytes()) => Page::Blank("the page is cut off".to_owned()),
        Ok(answer) => match answer.header(PAGE_HEADER) {
            Some(PAGE_WHOLE) => Page::Whole(answer),
            Some(PAGE_DEGRADED) => Page::Degraded(answer),
            Some(_) | None => Page::Blank("the page is not the portal's".to_owned()),
        },
        Err(error) => Page::Blank(error.to_string()),
    }
}

/// What came of queries, and how long they took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) whole: u64,
    pub(crate) degraded: u64,
    pub(crate) blank: u64,
    /// Why the latest page was blank.
    pub(crate) blank_why: Option<String>,
    pub(crate) times: Histogram,
}

impl Totals {
    fn add(&mut self, page: &Page, took: Duration) {
        match page {
            Page::Whole(_) => self.whole += 1,
            Page::Degraded(_) => self.degraded += 1,
            Page::Blank(why) => {
                self.blank += 1;
                self.blank_why = Some(why.clone());
            }
        }
        self.times.add(took);
    }

    /// What came after `earlier`, an older copy of the same totals.
    pub(crate) fn since(&self, earlier: &Totals) -> Totals {
        let blank = self.blank.saturating_sub(earlier.blank);
        Totals {
            whole: self.whole.saturating_sub(earlier.whole),
            degraded: self.degraded.saturating_sub(earlier.degraded),
            blank,
            blank_why: self.blank_why.clone().filter(|_| blank > 0),
            times: self.times.since(&earlier.times),
        }
    }

    /// All queries.
    pub(crate) fn all(&self) -> u64 {
        self.whole + self.degraded + self.blank
    }

    /// The share that got a page, in percent; 0 where nobody asked.
    pub(crate) fn success_percent(&self) -> f64 {
        percent(self.whole + self.degraded, self.all())
    }

    /// The share that got a page with parts missing, in percent; 0 where nobody asked.
    pub(crate) fn degraded_percent(&self) -> f64 {
        percent(self.degraded, self.all())
    }
}

fn percent(part: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        part as f64 * 100.0 / all as f64
    }
}

/// Counts of durations in buckets that are 1/32 of their value wide, from 1 µs to over an hour: what a quantile says
/// is at most 3.2 % above the truth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn add(&mut self, took: Duration) {
        let bucket = bucket(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    fn since(&self, earlier: &Histogram) -> Histogram {
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        Histogram {
            counts: self
                .counts
                .iter()
                .zip(before)
                .map(|(now, before)| now.saturating_sub(*before))
                .collect(),
        }
    }

    /// The duration that the share `q` (0 to 1) did not exceed; `None` where nothing was counted.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let all: u64 = self.counts.iter().sum();
        let rank = ((all as f64 * q).ceil() as u64).clamp(1, all.max(1));
        let mut passed = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return Some(Duration::from_micros(bucket_end(bucket)));
            }
        }
        None
    }
}

/// Below 32 each value has a bucket; above, the five bits after the leading one choose among 32 for each power of two.
fn bucket(micros: u32) -> usize {
    let power = 31_u32.saturating_sub(micros.leading_zeros());
    let shift = power.saturating_sub(5);
    (shift * 32 + (micros >> shift)) as usize
}

/// The largest value of a bucket.
fn bucket_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 64 {
        return bucket;
    }
    let shift = bucket / 32 - 1;
    ((bucket % 32 + 33) << shift) - 1
}

/// Queries under way at once: enough for 200 a second that take a second each.
const CITIZENS: usize = 256;
/// How long a citizen waits for a page.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_bucket_ends_at_most_a_thirtieth_above_what_is_in_it() {
        let mut micros = 0_u32;
        let mut previous = 0;
        while micros < u32::MAX / 2 {
            let bucket = bucket(micros);
            assert!(bucket >= previous, "{micros}");
            previous = bucket;
            let end = bucket_end(bucket);
            assert!(end >= u64::from(micros), "{micros} is in a bucket that ends at {end}");
            assert!(
                end as f64 <= f64::from(micros) * (1.0 + 1.0 / 31.0),
                "{micros} is in a bucket that ends at {end}"
            );
            micros += 1 + micros / 57;
        }
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let mut totals = Totals::default();
        for _ in 0..1000 {
            totals.times.add(Duration::from_secs(9));
        }
        let earlier = totals.clone();
        for millis in 1..=100 {
            totals.times.add(Duration::from_millis(millis));
        }
        let since = totals.since(&earlier).times;
        for (q, millis) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)] {
            let seen = since.quantile(q).expect("durations were counted").as_secs_f64() * 1000.0;
            assert!(
                seen >= millis && seen <= millis * 1.033,
                "{q}: {seen} ms for {millis} ms"
            );
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_page_is_judged_by_what_a_citizen_sees() {
        let answer = |status: u16, state: Option<&'static str>, body: &'static str| {
            let mut headers = HeaderMap::new();
            if let Some(state) = state {
                headers.insert(PAGE_HEADER, http::HeaderValue::from_static(state));
            }
            Ok(Answer {
                status: StatusCode::from_u16(status).expect("a status"),
                headers,
                body: Bytes::from_static(body.as_bytes()),
            })
        };
        let whole = "<html></html>\n";
        assert!(matches!(judge(answer(200, Some(PAGE_WHOLE), whole)), Page::Whole(_)));
        assert!(matches!(
            judge(answer(200, Some(PAGE_DEGRADED), whole)),
            Page::Degraded(_)
        ));
        assert!(matches!(judge(answer(200, Some(PAGE_WHOLE), "<html>")), Page::Blank(_)));
        assert!(matches!(judge(answer(200, None, whole)), Page::Blank(_)));
        assert!(matches!(judge(answer(503, Some(PAGE_WHOLE), whole)), Page::Blank(_)));
        assert!(matches!(judge(Err(CallError::TimedOut(PATIENCE))), Page::Blank(_)));
    }
}
