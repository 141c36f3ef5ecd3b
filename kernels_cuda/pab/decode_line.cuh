// SPDX-License-Identifier: Apache-2.0
// The work of a decode call as a line of positions, cut into equal shares: how blocks find their tiles.
//
// The line is that of one KV head, and all heads have the same: block b takes share b / num_kv_heads of head
// b % num_kv_heads.  So neighbouring blocks read neighbouring heads of the same tokens at the same time, which lie side
// by side where tokens come before heads, and look the same table entries up.
//
// A unit is one sequence and kUnitRows packed rows (query token x head of the group), 16 unless PAB_UNIT_ROWS says so.
// Units lie on the line sequence by sequence.  A share may begin and end within a unit; what a block attends to of one
// unit is a piece, and a unit of several pieces is merged, for each head, by the block that finishes last.
//
//   split_tiles = 0   a unit takes one position a tile and kUnitCost for its own; a share may end at any tile, so
//                     that all shares are equal (stream-K).  Where a unit is cut depends on the whole batch.
//   split_tiles = S   a unit takes one position for each S tiles, and each is a piece: where a sequence is cut depends
//                     on nothing else, and neither does its result, bit for bit.
//
// Tiles before the window of every row of a sequence are not on the line; a sequence's first tile is the one with the
// first key that any row sees.  With PAB_KEY_LISTS tiles go over the places of the sequence's list (pab/key_list.cuh).
//
// Nothing of this is known to the host: lengths may change in place between two launches.
#pragma once

#include "pab/features.cuh"
#include "pab/key_list.cuh"

namespace pab {

#ifdef PAB_UNIT_ROWS
constexpr int kUnitRows = PAB_UNIT_ROWS;
#else
constexpr int kUnitRows = 16;
#endif
constexpr int kUnitCost = 1;  // tiles that beginning and ending a unit is worth
constexpr i32 kAnyQueryLen = 0x7fffffff;

// Lengths of the batch, and how it is cut.
struct Batch {
  const i32* kv_lens;
  const i32* qo_indptr;
  i32 num_kv_heads, group_size, tile_tokens, split_tiles;
  i32 max_query_len;  // sequences with more query tokens are another kernel's
  Features features;
#if PAB_KEY_LISTS
  KeyLists lists;
#endif
};

// One sequence on the line.
struct Shape {
#if PAB_KEY_LISTS
  i32 list;  // where it begins; kv_len is its length
#endif
  i32 kv_len, first_query, query_len;
  i32 tiles;   // on the line, at least 1: an empty sequence has output too
  i32 units;   // of one KV head: none without queries, nor with too many
  i32 weight;  // positions of one unit
};

PAB_FN i32 ceil_div(i32 value, i32 by) { return value / by + (value % by != 0); }

// The first key that any row of a sequence sees: that of its first row.
PAB_FN i32 first_seen(const Batch& batch, i32 kv_len, i32 query_len) {
  return oldest_key(batch.features, kv_len - query_len);
}

PAB_FN Shape shape_of(const Batch& batch, i32 sequence) {
  Shape shape;
#if PAB_KEY_LISTS
  shape.list = batch.lists.begins[sequence];
  shape.kv_len = batch.lists.begins[sequence + 1] - shape.list;
#else
  shape.kv_len = batch.kv_lens[sequence];
#endif
  shape.first_query = batch.qo_indptr[sequence];
  shape.query_len = batch.qo_indptr[sequence + 1] - shape.first_query;
  const i32 hidden = first_seen(batch, shape.kv_len, shape.query_len) / batch.tile_tokens;
  shape.tiles = shape.kv_len > 0 ? ceil_div(shape.kv_len, batch.tile_tokens) - hidden : 1;
  shape.units = ceil_div(shape.query_len * batch.group_size, kUnitRows);
  if (shape.query_len > batch.max_query_len) shape.units = 0;
  shape.weight = batch.split_tiles ? ceil_div(shape.tiles, batch.split_tiles) : shape.tiles + kUnitCost;
  return shape;
}

// The line's `total` positions, cut into `shares`, none of them empty; `share` is the one that a block walks over.
struct Cut {
  u64 total;
  u32 shares, share;
};

PAB_FN Cut cut_line(i64 total, u32 most_shares, u32 share) {
  const u64 all = static_cast<u64>(total);
  return {all, most_shares < all ? most_shares : static_cast<u32>(all), share};
}
PAB_FN i64 share_begin(const Cut& cut, u64 share) { return static_cast<i64>(cut.total * share / cut.shares); }
PAB_FN i64 share_at(const Cut& cut, i64 position) {
  return static_cast<i64>(((static_cast<u64>(position) + 1) * cut.shares - 1) / cut.total);
}

// A tile that a block attends to, and what it needs to know of its piece.
struct Work {
  i32 tile;  // of the sequence; -1: the share is done
  i32 begins, ends;  // whether this is the first, the last tile of the piece
  i32 sequence, kv_len, first_query, query_len;
#if PAB_KEY_LISTS
  i32 list;
#endif
  i32 kv_head, first_row;  // kv_head is the block's; first_row is the unit's first packed row
  i32 number;              // of the piece in this share
  i32 piece, pieces;       // of the unit
  i64 home;                // where the unit's pieces meet: see partial_slot
};

// Walks over the tiles of one share, in order.
struct Walk {
  Cut cut;
  i64 at, end;  // positions: next piece, end of the share
  i64 unit;     // position of the unit
  i32 part;     // the unit is this one of its sequence
  i32 tile_end;  // of the piece
  Shape shape;   // of the sequence
  Work work;     // the current tile
};

// `line` holds the position of each sequence's first unit, then that of the end; `first` the sequence of each share's
// first position.  Of `blocks`, those that make up no share of all heads have nothing to do.
PAB_FN void begin_walk(Walk& walk, const Batch& batch, const i64* line, const i32* first, i32 num_seqs, u32 block,
                       u32 blocks) {
  const u32 heads = static_cast<u32>(batch.num_kv_heads), share = block / heads;
  walk.cut = cut_line(line[num_seqs], blocks / heads, share);
  walk.at = walk.end = 0;
  walk.tile_end = 0;
  walk.work = {};
  walk.work.number = -1;
  if (share >= walk.cut.shares) return;
  walk.at = share_begin(walk.cut, share);
  walk.end = share_begin(walk.cut, share + 1);
  const i32 sequence = first[share];
  walk.work.sequence = sequence;
  walk.work.kv_head = static_cast<i32>(block % heads);
  walk.shape = shape_of(batch, sequence);
  walk.part = static_cast<i32>((walk.at - line[sequence]) / walk.shape.weight);
  walk.unit = line[sequence] + static_cast<i64>(walk.part) * walk.shape.weight;
}

// Goes on to the next unit with rows of queries.
PAB_FN void next_unit(Walk& walk, const Batch& batch) {
  walk.unit = walk.at;
  if (++walk.part < walk.shape.units) return;
  walk.part = 0;
  i32 sequence = walk.work.sequence;
  do {
    walk.shape = shape_of(batch, ++sequence);
  } while (walk.shape.units == 0);
  walk.work.sequence = sequence;
}

// Describes the piece that begins at the walk's tile.
PAB_FN void describe_piece(Walk& walk, const Batch& batch) {
  Work& work = walk.work;
#if PAB_KEY_LISTS
  work.list = walk.shape.list;
#endif
  work.kv_len = walk.shape.kv_len;
  work.first_query = walk.shape.first_query;
  work.query_len = walk.shape.query_len;
  work.first_row = walk.part * kUnitRows;
  work.number += 1;
  // the meeting places of a head lie behind those of the heads before
  if (batch.split_tiles) {
    work.home = work.kv_head * static_cast<i64>(walk.cut.total) + walk.unit;
    work.piece = static_cast<i32>(walk.at - walk.unit) - 1;
    work.pieces = walk.shape.weight;
  } else {
    const i64 from = share_at(walk.cut, walk.unit + kUnitCost);
    work.home = work.kv_head * static_cast<i64>(walk.cut.shares) + from;
    work.piece = static_cast<i32>(walk.cut.share - from);
    work.pieces = static_cast<i32>(share_at(walk.cut, walk.unit + walk.shape.weight - 1) - from) + 1;
  }
}

// Goes to the next tile and describes it in walk.work.
PAB_FN void next_tile(Walk& walk, const Batch& batch) {
  Work& work = walk.work;
  work.begins = 0;
  work.tile += 1;
  while (work.tile >= walk.tile_end) {
    if (walk.at >= walk.end) {
      work.tile = -1;
      walk.tile_end = -1;
      return;
    }
    if (walk.at == walk.unit + walk.shape.weight) next_unit(walk, batch);
    const i32 offset = static_cast<i32>(walk.at - walk.unit);
    const i32 hidden = first_seen(batch, walk.shape.kv_len, walk.shape.query_len) / batch.tile_tokens;
    if (batch.split_tiles) {
      const i32 begin = offset * batch.split_tiles, left = walk.shape.tiles - begin;
      walk.at += 1;
      work.tile = hidden + begin;
      walk.tile_end = work.tile + (left < batch.split_tiles ? left : batch.split_tiles);
    } else {
      const i64 unit_end = walk.unit + walk.shape.weight;
      walk.at = walk.end < unit_end ? walk.end : unit_end;
      work.tile = hidden + (offset > kUnitCost ? offset - kUnitCost : 0);
      walk.tile_end = hidden + static_cast<i32>(walk.at - walk.unit) - kUnitCost;
    }
    work.begins = work.tile < walk.tile_end;  // else the share ends before the unit's first tile
  }
  if (work.begins) describe_piece(walk, batch);
  work.ends = work.tile + 1 == walk.tile_end;
}

// Where the partial result of a piece lies.  With shares that end anywhere a share has at most two: of a unit that
// another one began, and of one that it leaves to others.
PAB_FN i64 partial_slot(const Work& work, i32 piece, i32 split_tiles) {
  return split_tiles ? work.home + piece : 2 * (work.home + piece) + (piece == 0);
}

}  // namespace pab
