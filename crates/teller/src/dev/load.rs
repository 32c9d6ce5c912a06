//! When payments are made: in waves, so that batches of several sizes are seen, then a trickle.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teller_devnet::Devnet;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::buyer::{Buyers, Purchase};
use super::view::View;
use crate::cli::DevArgs;
use crate::commands::Failure;

/// What the demonstration makes before the trickle.
const DEMONSTRATION: u64 = 60;
const TRICKLE: Duration = Duration::from_secs(3);
/// Sizes of the waves, in seconds' worth of the rate.
const WAVES: [f64; 6] = [0.1, 0.5, 1.0, 2.5, 0.2, 1.5];
/// Purchases under way at most.
const UNDER_WAY: usize = 512;
const REDRAW: Duration = Duration::from_millis(250);

/// Makes payments and shows them, for ever.
pub async fn run(args: &DevArgs, rest: SocketAddr, devnet: &Devnet) -> Result<Infallible, Failure> {
    let buyers = Arc::new(Buyers::new(devnet.info(), rest)?);
    let (told, mut heard) = mpsc::channel(UNDER_WAY);
    let pace = pace(args.payments, args.rate, buyers, told);
    tokio::pin!(pace);
    let mut view = View::new(devnet, rest);
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            news = heard.recv() => match news {
                Some(news) => view.hear(news),
                None => return std::future::pending().await,
            },
            _ = redraw.tick() => view.redraw().await,
            never = &mut pace => match never {},
        }
    }
}

/// What happens to purchases.
pub enum News {
    /// One was begun.
    Begun,
    /// One has ended.
    Ended(Purchase),
    /// All that were asked for have ended.
    Complete {
        /// Whether a trickle follows.
        trickle: bool,
    },
}

async fn pace(
    payments: Option<u64>,
    rate: u32,
    buyers: Arc<Buyers>,
    told: mpsc::Sender<News>,
) -> Infallible {
    let mut shop = Shop {
        buyers,
        told: told.clone(),
        room: Arc::new(Semaphore::new(UNDER_WAY)),
        under_way: JoinSet::new(),
        number: 0,
    };
    let total = payments.unwrap_or(DEMONSTRATION);
    for share in WAVES.into_iter().cycle() {
        let left = total.saturating_sub(shop.number);
        if left == 0 {
            break;
        }
        let wave = wave_size(share, rate).min(left);
        for _ in 0..wave {
            shop.sell().await;
        }
        let pause = Duration::from_secs_f64(whole(wave) / f64::from(rate.max(1)));
        tokio::time::sleep(pause).await;
    }
    while shop.under_way.join_next().await.is_some() {}
    let trickle = payments.is_none();
    // Nobody listens only while everything ends.
    let _ = told.send(News::Complete { trickle }).await;
    if !trickle {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(TRICKLE).await;
        shop.sell().await;
        while shop.under_way.try_join_next().is_some() {}
    }
}

struct Shop {
    buyers: Arc<Buyers>,
    told: mpsc::Sender<News>,
    room: Arc<Semaphore>,
    under_way: JoinSet<()>,
    number: u64,
}

impl Shop {
    async fn sell(&mut self) {
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
            return;
        };
        let number = self.number;
        self.number += 1;
        let (buyers, told) = (Arc::clone(&self.buyers), self.told.clone());
        self.under_way.spawn(async move {
            let _room = room;
            let _ = told.send(News::Begun).await;
            let outcome = buyers.buy(number).await;
            let _ = told.send(News::Ended(outcome)).await;
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small positive number"
)]
fn wave_size(share: f64, rate: u32) -> u64 {
    (share * f64::from(rate)).round().max(1.0) as u64
}

fn whole(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
