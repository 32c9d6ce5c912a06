//! The official Rust packages for `e2e/matrix`: `counterpart buyer` and `counterpart shop ORDER`.

mod buyer;
mod shop;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("buyer") => buyer::take_orders().await,
        Some("shop") => shop::open(&arguments.next().ok_or("shop needs an order")?).await,
        _ => Err("usage: counterpart buyer | counterpart shop ORDER".into()),
    }
}
