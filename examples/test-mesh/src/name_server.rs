//! A name server with names of a test's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// It runs until it is dropped. A name that it was not told does not exist.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    names: BTreeMap<String, Says>,
    asked: BTreeMap<String, usize>,
}

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// Its addresses, for that many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// Nothing: who asks waits in vain.
    Nothing,
}

impl NameServer {
    /// Starts it on loopback.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("its address");
        let shared = Arc::<Mutex<Shared>>::default();
        let mut task = JoinSet::new();
        let serves = Arc::clone(&shared);
        task.spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a query");
                if let Some(answer) = answer(&buffer[..length], &serves) {
                    socket.send_to(&answer, from).await.expect("sent");
                }
            }
        });
        NameServer {
            address,
            shared,
            _task: task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of a name from now on; the name is in lower case, without a dot at the end.
    pub fn says(&self, name: &str, says: Says) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.names.insert(name.to_owned(), says);
    }

    /// How often it was asked for IPv4 addresses of a name.
    pub fn asked(&self, name: &str) -> usize {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.asked.get(name).copied().unwrap_or_default()
    }
}

/// The answer to a query with one question (RFC 1035 section 4).
fn answer(query: &[u8], shared: &Mutex<Shared>) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(
            std::str::from_utf8(query.get(at..at + length)?)
                .ok()?
                .to_ascii_lowercase(),
        );
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(HEADER_BYTES..at + 4)?;
    let name = labels.join(".");
    let (is_v4, is_v6) = (kind == 1, kind == 28);
    let says = {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        *shared.asked.entry(name.clone()).or_default() += usize::from(is_v4);
        shared.names.get(&name).cloned()
    };
    let (addresses, ttl, code) = match says {
        Some(Says::Nothing) => return None,
        Some(Says::Addresses(addresses, ttl)) => (addresses, ttl, 0),
        None => (Vec::new(), 0, 3),
    };
    let mut records = Vec::new();
    let mut count = 0_u16;
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(address) if is_v4 => address.octets().to_vec(),
            IpAddr::V6(address) if is_v6 => address.octets().to_vec(),
            IpAddr::V4(_) | IpAddr::V6(_) => continue,
        };
        count += 1;
        // The name is that of the question, at byte 12 of the message.
        records.extend([0xc0, 12]);
        records.extend(kind.to_be_bytes());
        records.extend([0, 1]);
        records.extend(ttl.to_be_bytes());
        records.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
        records.extend(bytes);
    }
    let mut message = query.get(..2)?.to_vec();
    // An answer of who knows, recursion asked for and to be had.
    message.extend([0x85, 0x80 | code]);
    message.extend([0, 1]);
    message.extend(count.to_be_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend(question);
    message.extend(records);
    Some(message)
}

/// The address by which this host goes to others, which is none of loopback.
///
/// # Panics
/// When it has no way to others.
pub fn own_address() -> IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("198.51.100.1:9").expect("this host has a way to others");
    socket.local_addr().expect("bound").ip()
}
