//! `apply`: a plan is carried out exactly, or refused with the base as it was; after a crash anywhere it is one of the two.
//!
//! It works on directories, without the overlay; one test covers the base with a mount. Failpoints are global to the process, so the
//! tests here take turns.

#[path = "apply/attack.rs"]
mod attack;
#[path = "common/mod.rs"]
mod common;
#[path = "apply/conflict.rs"]
mod conflict;
#[path = "apply/crash.rs"]
mod crash;
#[path = "apply/fixture.rs"]
mod fixture;
#[path = "apply/make.rs"]
mod make;
#[path = "apply/places.rs"]
mod places;
#[path = "apply/work.rs"]
mod work;
