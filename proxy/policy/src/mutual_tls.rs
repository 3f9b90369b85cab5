//! Mutual TLS at a workload's inbound ports: whether what comes in cleartext is let in.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// How the inbound ports of one workload are entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualTls {
    /// Of all ports but these.
    pub mode: Mode,
    /// Of single app ports.
    pub ports: BTreeMap<NonZeroU16, Mode>,
}

/// How a port is entered. What comes by TLS has to show a certificate of the mesh in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By mutual TLS alone.
    Strict,
    /// By mutual TLS where the caller can, else in cleartext, which is counted.
    Permissive,
    /// In cleartext: callers are not told that it could be otherwise.
    Off,
}

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// By TLS, with a certificate of the mesh.
    Mutual,
    /// In cleartext.
    Cleartext,
    /// In cleartext, at a port where requests enter the mesh: whoever calls there is none of it.
    FromOutside,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes on.
    Admit,
    /// It goes on, and counts as one that [`Mode::Strict`] would refuse.
    AdmitAndCount,
    /// It does not.
    Refuse,
}

impl MutualTls {
    /// The same for all ports.
    pub fn everywhere(mode: Mode) -> MutualTls {
        MutualTls {
            mode,
            ports: BTreeMap::new(),
        }
    }

    /// How an app port is entered.
    pub fn at(&self, app_port: NonZeroU16) -> Mode {
        self.ports.get(&app_port).copied().unwrap_or(self.mode)
    }
}

impl Mode {
    /// What becomes of a request that came so.
    pub fn evaluate(self, came: Came) -> Decision {
        match (self, came) {
            (_, Came::Mutual | Came::FromOutside) | (Mode::Off, Came::Cleartext) => Decision::Admit,
            (Mode::Permissive, Came::Cleartext) => Decision::AdmitAndCount,
            (Mode::Strict, Came::Cleartext) => Decision::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleartext_passes_as_the_mode_says_and_mutual_tls_always() {
        use Came::{Cleartext, FromOutside, Mutual};
        use Decision::{Admit, AdmitAndCount, Refuse};
        let table = [
            (
                Mode::Strict,
                [(Mutual, Admit), (Cleartext, Refuse), (FromOutside, Admit)],
            ),
            (
                Mode::Permissive,
                [(Mutual, Admit), (Cleartext, AdmitAndCount), (FromOutside, Admit)],
            ),
            (Mode::Off, [(Mutual, Admit), (Cleartext, Admit), (FromOutside, Admit)]),
        ];
        for (mode, rows) in table {
            for (came, expect) in rows {
                assert_eq!(mode.evaluate(came), expect, "{mode:?}, {came:?}");
            }
        }
    }

    #[test]
    fn a_port_of_its_own_goes_before_the_rest() {
        let port = |number| NonZeroU16::new(number).expect("a port");
        let held = MutualTls {
            mode: Mode::Strict,
            ports: BTreeMap::from([(port(8080), Mode::Off)]),
        };
        assert_eq!((held.at(port(8080)), held.at(port(9090))), (Mode::Off, Mode::Strict));
        assert_eq!(MutualTls::everywhere(Mode::Off).at(port(1)), Mode::Off);
    }
}
