//! Child processes that Dues runs itself: PostgreSQL 18 and anvil.
//!
//! What holds for every child:
//!
//! * It ends with its owner. A graceful stop signals and waits; a drop signals; on Linux the kernel signals when
//!   the owner is killed (`PR_SET_PDEATHSIG`). On other systems a child outlives a `kill -9` of its owner, and the
//!   next [`Postgres::start`] on the same data ends it.
//! * It inherits a short, fixed environment, so no secret of the owner reaches it.
//! * Its output goes to a log file, whose last lines are part of the error when it ends by itself.
//!
//! Run as root, PostgreSQL drops to the user `nobody`; see [`PostgresOptions::shared_dir`].

mod anvil;
mod files;
mod lock;
mod placement;
mod port;
mod postgres;
mod process;
mod rpc;
mod spawner;
pub mod tools;
mod user;

pub use anvil::{Anvil, AnvilError, AnvilOptions};
pub use lock::{DirLock, LockError};
pub use placement::PlacementError;
pub use port::free_port;
pub use postgres::{Durability, Postgres, PostgresError, PostgresOptions, RunningPostgres};
pub use process::{Process, ProcessError, ProcessOptions, Signal};
pub use rpc::RpcError;
pub use spawner::spawn_bound;
pub use user::ChildUser;
