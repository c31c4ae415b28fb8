// SPDX-License-Identifier: Apache-2.0

// The narrow C surface between Go and onnxruntime-genai, of which only the tokenizer is used: a chat template applied, text into tokens, and
// tokens into text as they come. Functions that can fail return NULL or an error text that the caller frees with free().
#ifndef CONCORD_GENAI_H
#define CONCORD_GENAI_H

#include <stddef.h>
#include <stdint.h>

// Opens the library once for the process. ONNX Runtime must be open: without it this library ends the process.
char *concord_genai_open(const char *path);

// Makes a tokenizer of the files in a directory, which may be removed afterwards.
char *concord_genai_tokenizer(const char *directory, void **tokenizer);
void concord_genai_tokenizer_free(void *tokenizer);

// *text is given back with concord_genai_text_free.
char *concord_genai_template(void *tokenizer, const char *messages, const char **text);
void concord_genai_text_free(const char *text);

// *tokens live as long as *sequences, which are given back with concord_genai_sequences_free, also after an error.
char *concord_genai_encode(void *tokenizer, const char *text, void **sequences, const int32_t **tokens, size_t *count);
void concord_genai_sequences_free(void *sequences);

// The text lives until the stream's next token, or its end.
char *concord_genai_stream(void *tokenizer, void **stream);
char *concord_genai_add(void *stream, int32_t token, const char **text);
void concord_genai_stream_free(void *stream);

#endif
