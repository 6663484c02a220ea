// A program around compiled.cpp for processors that only an emulator has: two steps of one run.
// Arguments: a text file with the sizes, the orbits of each layer, rows and labels; a binary file with
// the images and the state. Prints the weights and what was recorded, as floats.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <vector>

struct Space {
    int lines, width, orbits;
    const int *order, *ends, *inside;
};

extern "C" void train(const uint8_t* images, const int64_t* rows, const int64_t* labels, int steps,
                      int batch, const Space* spaces, float* a, float* b, float* weight,
                      float* squares, float scale, const float* rates, const float* gammas,
                      float* recorded);

int main(int, char** arguments) {
    std::ifstream text(arguments[1]), data(arguments[2], std::ios::binary);
    int count, pixels, layers, steps, batch;
    text >> count >> pixels >> layers >> steps >> batch;
    std::vector<Space> spaces(layers);
    std::vector<int> orders(layers);
    for (int l = 0; l < layers; ++l)
        text >> spaces[l].lines >> spaces[l].width >> spaces[l].orbits >> orders[l];
    std::vector<std::vector<int>> tables;
    for (int l = 0; l < layers; ++l)
        for (int size : {orders[l], spaces[l].orbits, spaces[l].orbits}) {
            tables.emplace_back(size);
            for (int& value : tables.back()) text >> value;
        }
    for (int l = 0; l < layers; ++l) {
        spaces[l].order = tables[3 * l].data();
        spaces[l].ends = tables[3 * l + 1].data();
        spaces[l].inside = tables[3 * l + 2].data();
    }
    std::vector<int64_t> rows(steps * batch), labels(steps * batch);
    for (int64_t& row : rows) text >> row;
    for (int64_t& label : labels) text >> label;
    std::vector<uint8_t> images((size_t)count * pixels);
    data.read((char*)images.data(), images.size());
    std::vector<float> held[4];
    for (auto& own : held) {
        int size;
        text >> size;
        own.resize(size);
        data.read((char*)own.data(), size * sizeof(float));
    }
    std::vector<float> recorded(steps * (1 + layers));
    const float rates[] = {1e3f, 1e-3f}, gammas[] = {0.0f, 0.1f};
    train(images.data(), rows.data(), labels.data(), steps, batch, spaces.data(), held[0].data(),
          held[1].data(), held[2].data(), held[3].data(), 0.5f / batch, rates, gammas,
          recorded.data());
    std::fwrite(held[2].data(), sizeof(float), held[2].size(), stdout);
    std::fwrite(recorded.data(), sizeof(float), recorded.size(), stdout);
}
