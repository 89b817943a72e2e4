//! The claim on a prefix of an object store: which job may write there.
//!
//! Object stores have no locks. A claim is the last of a sequence of small objects beside the
//! results, where readers do not look:
//!
//! ```text
//! <dir>/_wordtide/owner-<hash of the prefix>-<term>
//! ```
//!
//! Each is created only if it does not exist, so a term belongs to one run. The greatest term is
//! the owner's. The owner stores its object again and again, with a number that grows, and looks
//! each time for a greater term: one that stands there fences it, and the run ends. No clock
//! is compared with another's: a start that meets the claim of another job watches whether the
//! number grows ([`Owner::stale_after`]).
//!
//! Between two renewals an owner trusts its claim for two periods only, which is less than others
//! wait before they follow it. An owner that was paused for longer looks again before it stores
//! anything ([`Claim::confirm`]).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::object_names::Layout;
use crate::epoch::Epoch;
use crate::outputs::owner::{OWNER_FORMAT, Owner, Standing};
use crate::store::{Body, Listing, Store, StoreError, StoreErrorKind, StoreResult};

/// For so many periods after a renewal the owner does not look again before it stores an object.
const TRUSTED_PERIODS: u32 = 2;
/// Longer objects are no claims.
const OWNER_BYTES_MAX: u64 = 64 << 10;

/// Returns the object of a claim of `owner`.
fn to_body(owner: &Owner) -> StoreResult<Body> {
    let json = serde_json::to_vec(owner).map_err(|error| {
        StoreError::new(StoreErrorKind::Invalid, format!("a claim cannot be written: {error}"))
    });
    json.map(|mut json| {
        json.push(b'\n');
        Body::from(json)
    })
}

/// The names of the claims on one prefix.
#[derive(Clone, Debug)]
pub struct ClaimKeys {
    /// The key of each claim, up to its term.
    prefix: String,
}

impl ClaimKeys {
    /// The names for the epochs of `layout`.
    pub fn of(layout: &Layout) -> ClaimKeys {
        // An epoch's name without its number: prefix and suffix.
        let hash = xxhash_rust::xxh3::xxh3_64(layout.identity().as_bytes());
        ClaimKeys { prefix: format!("{}/owner-{hash:016x}-", layout.own_dir()) }
    }

    /// The key of the claim with this term; keys sort as terms do.
    pub fn key(&self, term: u64) -> String {
        format!("{}{term:020}", self.prefix)
    }

    /// The terms that stand there, greater than `after`, ascending.
    async fn terms(&self, store: &dyn Store, after: Option<u64>) -> StoreResult<Vec<u64>> {
        let mut after = after.map(|term| self.key(term));
        let mut terms = Vec::new();
        loop {
            let ask = Listing::new(&self.prefix).after(after.as_deref());
            let page = store.list(ask).await?;
            let names = page.items.iter().filter_map(|entry| entry.key.strip_prefix(&self.prefix));
            terms.extend(names.filter_map(|term| term.parse::<u64>().ok()));
            match page.next {
                None => return Ok(terms),
                next => after = next,
            }
        }
    }

    /// Finds the claim with the greatest term.
    ///
    /// # Errors
    ///
    /// `Denied` where it was written by a later release; else those of the store.
    pub async fn newest(&self, store: &dyn Store) -> StoreResult<Option<Standing>> {
        loop {
            let Some(term) = self.terms(store, None).await?.pop() else { return Ok(None) };
            match self.read(store, term).await {
                // Removed meanwhile, because a greater one stands there now.
                Err(error) if error.kind == StoreErrorKind::NotFound => {}
                read => return Ok(Some(Standing { term, owner: read? })),
            }
        }
    }

    /// Reads the claim with this term.
    ///
    /// # Errors
    ///
    /// `NotFound`, and those of [`ClaimKeys::newest`].
    pub async fn read(&self, store: &dyn Store, term: u64) -> StoreResult<Owner> {
        let key = self.key(term);
        let refused = |what: String| {
            StoreError::new(StoreErrorKind::Denied, format!("{key} {what}"))
                .hint("see which job writes to --to; remove the object if none does")
        };
        let bytes = match store.get(&key, OWNER_BYTES_MAX).await {
            Err(error) if error.kind == StoreErrorKind::Invalid => {
                return Err(refused("is no claim that can be read: it is too long".to_owned()));
            }
            read => read?,
        };
        let number = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("format")?.as_u64());
        if let Some(number) = number.filter(|number| *number > u64::from(OWNER_FORMAT)) {
            return Err(refused(format!(
                "has format {number}, and this release knows formats up to {OWNER_FORMAT}"
            )));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| refused(format!("is no claim that can be read: {error}")))
    }

    /// Creates the claim with this term, if there is none.
    ///
    /// # Errors
    ///
    /// `Exists` if there is one; else those of the store.
    pub async fn create(&self, store: &dyn Store, claim: &Standing) -> StoreResult<()> {
        let key = self.key(claim.term);
        store.put_new(&key, to_body(&claim.owner)?).await?;
        // A store that does not refuse has let two create it: the object belongs to the last.
        if self.read(store, claim.term).await?.run == claim.owner.run {
            return Ok(());
        }
        Err(StoreError::new(StoreErrorKind::Exists, format!("{key} was created by another job")))
    }

    /// Removes the claims before `term`.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn forget_before(&self, store: &dyn Store, term: u64) -> StoreResult<()> {
        for old in self.terms(store, None).await? {
            if old < term {
                store.delete(&self.key(old)).await?;
            }
        }
        Ok(())
    }
}

/// The claim that the processes of an owner hold.
struct ClaimShared {
    /// The store that the claim is in.
    store: Arc<dyn Store>,
    /// The names of claims on the prefix.
    keys: ClaimKeys,
    /// The term and the owner, as this run has created them.
    standing: Standing,
    /// Set in the process that stores the object again; the others only look.
    renews: bool,
    /// The newest committed epoch; 0 for none.
    newest: AtomicU64,
    /// The time at which the claim was last known to be the newest, and the loss, once it is lost.
    checked: Mutex<(Instant, Option<StoreError>)>,
    /// The renewals so far; held while one is under way.
    renewed: tokio::sync::Mutex<u64>,
}

/// A claim that a process of the owner holds. Clones are the same claim.
#[derive(Clone)]
pub struct Claim {
    /// The claim and what is known of it.
    inner: Arc<ClaimShared>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.inner.standing).finish()
    }
}

impl Claim {
    /// The claim that was just taken or looked up; `renews` in the process that keeps it.
    pub fn new(store: Arc<dyn Store>, keys: ClaimKeys, standing: Standing, renews: bool) -> Claim {
        let renewed = tokio::sync::Mutex::new(standing.owner.renewed);
        let newest = AtomicU64::new(standing.owner.newest.unwrap_or(0));
        // It was the newest a moment ago.
        let checked = Mutex::new((Instant::now(), None));
        Claim {
            inner: Arc::new(ClaimShared {
                store,
                keys,
                standing,
                renews,
                newest,
                checked,
                renewed,
            }),
        }
    }

    /// The time between two renewals.
    pub fn period(&self) -> Duration {
        self.inner.standing.owner.period()
    }

    /// Notes that `epoch` is committed.
    pub fn committed(&self, epoch: Epoch) {
        self.inner.newest.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Succeeds while no job can have taken the prefix over; looks where that is uncertain.
    ///
    /// # Errors
    ///
    /// `Exists`, naming the new owner, once the claim is lost; else those of the store.
    pub async fn confirm(&self) -> StoreResult<()> {
        let trusted = TRUSTED_PERIODS * self.period();
        {
            let checked = self.inner.checked.lock().unwrap_or_else(PoisonError::into_inner);
            match &*checked {
                (_, Some(lost)) => return Err(lost.clone()),
                (at, None) if at.elapsed() < trusted => return Ok(()),
                _ => {}
            }
        }
        self.renew().await
    }

    /// Looks now.
    ///
    /// # Errors
    ///
    /// Those of [`Claim::confirm`].
    pub async fn renew(&self) -> StoreResult<()> {
        let ClaimShared { store, keys, standing, renews, .. } = &*self.inner;
        let mut renewed = self.inner.renewed.lock().await;
        let began = Instant::now();
        let term = standing.term;
        let stands = match keys.read(&**store, term).await {
            // Only where the store lets two create one object.
            Ok(owner) if owner.run != standing.owner.run => return Err(self.lose(&owner)),
            // A newer owner removes what went before it, and so may an operator.
            Err(error) if error.kind == StoreErrorKind::NotFound => false,
            read => read.map(|_| true)?,
        };
        *renewed += 1;
        let body = to_body(&self.content(*renewed, false))?;
        if *renews && stands {
            store.put(&keys.key(term), body.clone()).await?;
        }
        // After the renewal: a later start sees that the number has grown.
        if let Some(newer) = keys.terms(&**store, Some(term)).await?.pop() {
            let owner = keys.read(&**store, newer).await.unwrap_or_default();
            return Err(self.lose(&owner));
        }
        if *renews && !stands {
            store.put(&keys.key(term), body).await?;
        }
        let mut checked = self.inner.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.0 = began;
        Ok(())
    }

    /// Gives the prefix back: a start need not wait for this run any more.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn release(&self) -> StoreResult<()> {
        let ClaimShared { store, keys, standing, renews, .. } = &*self.inner;
        let mut renewed = self.inner.renewed.lock().await;
        if !renews {
            return Ok(());
        }
        // Where the store lets two create one object, the claim may be that of another run by now.
        let owner = keys.read(&**store, standing.term).await;
        if owner.is_ok_and(|owner| owner.run != standing.owner.run) {
            return Ok(());
        }
        *renewed += 1;
        store.put(&keys.key(standing.term), to_body(&self.content(*renewed, true))?).await.map(drop)
    }

    /// Returns the owner as it is stored: with the number of renewals and the newest epoch.
    fn content(&self, renewed: u64, released: bool) -> Owner {
        let newest = self.inner.newest.load(Ordering::Relaxed);
        let newest = (newest > 0).then_some(newest);
        Owner { renewed, released, newest, ..self.inner.standing.owner.clone() }
    }

    /// Notes that `owner` has the prefix now.
    fn lose(&self, owner: &Owner) -> StoreError {
        let message = format!("the output was taken over by {owner}");
        let lost = StoreError::new(StoreErrorKind::Exists, message).hint(
            "this run has published nothing since; give --to a prefix of its own, or \
             --take-over to take it back",
        );
        let mut checked = self.inner.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.1.get_or_insert(lost).clone()
    }
}
