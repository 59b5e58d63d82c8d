// How the attention of one step is cut into items that threads take: the same for every layer.
//
// A row is one query: of the new token `row / G` of a sequence and the head `row % G` of a group of G that share a
// key/value head. An item is up to ITEM_ROWS rows of one sequence and key/value head, and a span of chunks.
#pragma once

#include <vector>

#include "attention.h"

namespace camelid {

// One forward pass over pieces of several sequences: see camelid/inference/step.py.
struct Step {
    int num_tokens, num_sequences, num_pages, num_outputs;
    const int32_t *tokens, *num_new, *num_cached, *page_tables, *outputs;
};

struct Item {
    int sequence, kv_head, first_row, num_rows, first_chunk, end_chunk;
    int partial;  // place of the first chunk's results, or -1 where the item sees all chunks and merges them itself
};

struct Plan {
    std::vector<Item> items;
    std::vector<Item> merges;      // rows whose chunks were shared out, with all of them
    std::vector<int> first_token;  // [sequences]
    std::vector<int> sequence_of;  // [tokens]
    std::vector<int> position_of;  // [tokens]
    int num_partials = 0;

    void make(const Step& step, int num_kv_heads, int heads_per_group, int num_threads) {
        items.clear(), merges.clear(), first_token.clear(), sequence_of.clear(), position_of.clear();
        num_partials = 0;
        int64_t work = 0;
        for (int s = 0, token = 0; s < step.num_sequences; token += step.num_new[s++]) {
            first_token.push_back(token);
            for (int t = 0; t < step.num_new[s]; ++t) {
                sequence_of.push_back(s);
                position_of.push_back(step.num_cached[s] + t);
                work += (step.num_cached[s] + t) / CHUNK + 1;
            }
        }
        // In rows times chunks. A span of fewer than two chunks costs more than it brings.
        const int64_t fair =
            num_threads == 1 ? INT64_MAX / 2 : work * num_kv_heads * heads_per_group / (num_threads * 4);
        for (int s = 0; s < step.num_sequences; ++s) {
            const int num_rows = step.num_new[s] * heads_per_group;
            for (int head = 0; head < num_kv_heads; ++head) {
                for (int row = 0; row < num_rows; row += ITEM_ROWS) {
                    const int count = std::min(ITEM_ROWS, num_rows - row);
                    const int last_position = step.num_cached[s] + (row + count - 1) / heads_per_group;
                    add({s, head, row, count, 0, last_position / CHUNK + 1, -1}, std::max<int64_t>(2, fair / count));
                }
            }
        }
    }

private:
    void add(Item whole, int64_t span) {
        if (whole.end_chunk <= span) {
            items.push_back(whole);
            return;
        }
        whole.partial = num_partials;
        merges.push_back(whole);
        num_partials += whole.end_chunk * whole.num_rows;
        for (int chunk = 0; chunk < whole.end_chunk; chunk += int(span)) {
            Item part = whole;
            part.first_chunk = chunk;
            part.end_chunk = int(std::min<int64_t>(chunk + span, whole.end_chunk));
            part.partial += chunk * whole.num_rows;
            items.push_back(part);
        }
    }
};

}  // namespace camelid
