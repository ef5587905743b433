//! stub
use crate::lab::world::World;
pub fn run(_world: &mut World, _file: Option<&std::path::Path>) -> anyhow::Result<()> {
    Ok(())
}
