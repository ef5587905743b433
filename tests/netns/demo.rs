//! stub
use crate::lab::world::World;
pub fn run(_world: &mut World) -> anyhow::Result<()> {
    Ok(())
}
