//! The status of the MeshConfig: that it holds, and where it is in force.

use weir_api::Object;
use weir_api::status::{ConditionStatus, MeshStatus, condition};

use super::conditions::{Observation, Verdict, conditions};
use super::{Standings, in_force};
use crate::proxies::Extent;

/// What is to be said of it. There is one of that kind and it refers to nothing, so that whatever was admitted is
/// accepted.
pub(super) fn status(object: &Object, standings: &Standings, now: &str) -> MeshStatus {
    let before: MeshStatus = super::read(object);
    let at = Observation {
        generation: object.metadata.generation,
        now,
    };
    let message = "it holds for the mesh";
    let accepted = Verdict::new(condition::ACCEPTED, ConditionStatus::True, "Accepted", message);
    let verdicts = [accepted, in_force::verdict(&standings.at(&Extent::Mesh))];
    MeshStatus {
        conditions: conditions(verdicts, &before.conditions, at),
    }
}
